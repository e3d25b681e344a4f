"""The training loop: nodes own loss, batches and phases; this owns everything else."""
