"""The K2 model and MuonClip against what one would take instead."""
