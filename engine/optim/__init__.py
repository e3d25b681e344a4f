"""MuonClip and the WSD schedule."""
