"""Slurm jobs: rendered, submitted exactly once per key, watched until they have ended, found again."""
