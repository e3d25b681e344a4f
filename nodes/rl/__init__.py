"""The rl stage: K2's squared objective on verifiable tasks."""
