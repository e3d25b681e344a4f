"""The hot loops: one module per fused op, with a plain-torch reference as its specification."""
