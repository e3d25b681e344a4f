"""Training: the loop that every training stage runs, and its checkpoints."""
