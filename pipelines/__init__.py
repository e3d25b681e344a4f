"""The wiring: one Kedro pipeline a stage, and the faces that run, gate, track and explain it."""
