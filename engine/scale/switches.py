"""The switches of a layout that the planner reads."""

from dataclasses import dataclass

from engine.parallel.layout import Layout
from engine.parallel.pipeline_table import Schedule
from engine.scale.activations import NOTHING_SAVED, Savings


@dataclass(frozen=True)
class Switches:
    """ZeRO-1, the order of the pipeline, and what saves memory."""

    zero: bool = False
    schedule: Schedule = "interleaved_1f1b"
    savings: Savings = NOTHING_SAVED
    offload: frozenset[str] = frozenset()

    @classmethod
    def of(cls, layout: Layout) -> "Switches":
        """Return the switches that a layout sets."""
        return cls(
            bool(getattr(layout, "zero", 0)),
            layout.schedule,
            Savings(frozenset(layout.recompute), layout.fp8_storage),
            frozenset(getattr(layout, "offload", ())),
        )
