"""The pages of studies: tables, plot and verdict of each, and the table of all studies."""
