"""Slurm jobs: rendered, submitted exactly once for each key, watched until they have ended, found again."""
