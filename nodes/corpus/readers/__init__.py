"""Readers of one file, one module per kind; each fault of a file gets a one-sentence error (`file.File.refusal`)."""
