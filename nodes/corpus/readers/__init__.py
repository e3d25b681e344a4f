"""Readers of one file, one module a kind; every fault of a file is refused in one sentence (`file.File.refusal`)."""
