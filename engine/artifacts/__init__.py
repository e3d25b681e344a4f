"""Artifacts: directories with a manifest, published as a whole and verified when loaded."""
