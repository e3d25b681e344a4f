"""Turn results into what people read: tables, plots, Markdown, one HTML page, the model card."""
