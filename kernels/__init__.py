"""The hot loops: one module a fused op, its plain-torch reference the specification beside it."""
