"""MuonClip, the model and the training step, measured against what one would use instead."""
