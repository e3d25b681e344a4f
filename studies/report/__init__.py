"""A study's results as a page: tables, plot, verdict; and the table of all studies."""
