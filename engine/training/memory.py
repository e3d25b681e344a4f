"""How a training saves memory, as its layout says: what forwards keep for their backwards."""

from engine.parallel.layout import Layout
from kernels.kept import Memory


def memory_of(layout: Layout) -> Memory | None:
    """Return what the blocks' forwards keep (kernels/kept.py); None if the layout saves nothing."""
    if not (layout.recompute or layout.fp8_storage):
        return None
    return Memory(frozenset(layout.recompute), layout.fp8_storage)
