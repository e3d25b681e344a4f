"""rl: K2's squared objective on a verifiable task."""
