"""The same weights under other rotary frequencies: none, linear interpolation, YaRN."""

from dataclasses import replace
from typing import Any

from engine.model.model import K2Model
from nodes.extend.schema import Parameters


def rescaled(model: K2Model, scaling: dict[str, Any] | None, length: int) -> K2Model:
    """A copy of `model` with `scaling` (config.json's rope_scaling) and a context of `length` tokens."""
    other = K2Model(replace(model.config, rope_scaling=scaling, max_position_embeddings=length), seed=None)
    other.load_state_dict(model.state_dict())
    return other.eval()


def variants(p: Parameters) -> dict[str, dict[str, Any] | None]:
    """The three ways to reach the extended length that the report compares, YaRN last: the one that is kept."""
    return {
        "none": None,
        "linear": {"type": "linear", "factor": p.yarn.factor},
        "yarn": {"type": "yarn", **p.yarn.model_dump(), "original_max_position_embeddings": p.original_length},
    }
