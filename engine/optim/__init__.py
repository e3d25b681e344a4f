"""Optimizers: MuonClip, and the learning-rate schedule."""
