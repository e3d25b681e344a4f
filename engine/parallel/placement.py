"""Which ranks of the mesh hold a tensor, or a part of it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Placement:
    """How a tensor lies on the ranks, by dimension of the mesh (pp, dp, ep); every dimension stands in one field.

    `replicated`: the dimensions along which all ranks hold equal copies. `sharded`: (dimension, axis) pairs; along such
    a dimension the ranks hold consecutive equal parts of that axis. `owned`: (dimension, coordinate) pairs; along such
    a dimension only the ranks at that coordinate hold the tensor, whole or as the other fields say.
    """

    replicated: tuple[str, ...] = ("pp", "dp", "ep")
    sharded: tuple[tuple[str, int], ...] = ()
    owned: tuple[tuple[str, int], ...] = ()


REPLICATED = Placement()
"""Every rank holds the whole tensor."""
