"""What the planner assumes about machines: efficiencies.yml, read and checked."""

from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt

from engine.checked import checked, suggestion
from engine.errors import UserError
from engine.yaml_file import read_yaml

FILE = Path(__file__).with_name("efficiencies.yml")


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Gpu(_Frozen):
    """One kind of GPU: peaks in FLOP/s, memory in bytes, the links' rates in bytes/s in one direction."""

    bf16: PositiveFloat
    fp8: PositiveFloat
    memory: PositiveFloat
    node_link: PositiveFloat
    cluster_link: PositiveFloat
    host_link: PositiveFloat


class Node(_Frozen):
    """A node: its GPUs, and the bytes of its host memory."""

    gpus: PositiveInt
    memory: PositiveFloat


class Ranges(_Frozen):
    """What no source settles, as (low, high)."""

    fp8_speedup: tuple[float, float]
    hidden: tuple[float, float]


class Published(_Frozen):
    """A run whose cost is published, by which the planner is calibrated."""

    gpu: str
    gpus: PositiveInt
    gpu_hours: PositiveFloat
    tokens: PositiveFloat
    sequence_length: PositiveInt
    batch_size: PositiveInt
    pp: PositiveInt
    ep: PositiveInt
    dtype: str
    hidden: float
    recompute: frozenset[str]
    more_layers: int
    model: dict[str, Any]


class Machines(_Frozen):
    """All of efficiencies.yml."""

    gpus: dict[str, Gpu]
    node: Node
    dollars_per_gpu_hour: PositiveFloat
    ranges: Ranges
    calibration: Published


@cache
def machines() -> Machines:
    """Return what efficiencies.yml holds."""
    return checked(Machines, read_yaml(FILE), "engine/scale/efficiencies.yml")


def gpu(kind: str, field: str) -> Gpu:
    """Return a kind of GPU; UserError, whose sentence begins with `field`, if the file has none of that name."""
    known = machines().gpus
    if kind not in known:
        raise UserError(
            f"{field} is {kind!r}, of which engine/scale/efficiencies.yml knows nothing; {suggestion(kind, known)}"
        )
    return known[kind]
