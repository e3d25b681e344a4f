"""Artifacts: directories with a manifest, published whole, verified when loaded."""
