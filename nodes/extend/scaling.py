"""The same weights with different rotary frequencies: none, linear interpolation, YaRN.

YaRN always starts from the pre-training length. It is on during the anneal, with the factor from there to the annealed
length, and is raised once more afterwards, without training, to reach the extended length: K2's released
configuration, 32 from 4096, is 8 up to the 32k stage times 4. If it were switched on only after the anneal, it would
have to stretch frequencies that a short anneal has not yet learned at its own length (docs/LOG.md).
"""

from dataclasses import replace
from typing import Any

from engine.model.model import K2Model
from nodes.extend.schema import Parameters


def yarn(p: Parameters, original: int, length: int) -> dict[str, Any]:
    """Return config.json's rope_scaling that stretches `original` to `length` positions."""
    return {
        "type": "yarn",
        **p.yarn.model_dump(),
        "factor": length / original,
        "original_max_position_embeddings": original,
    }


def rescaled(model: K2Model, scaling: dict[str, Any] | None, length: int) -> K2Model:
    """Return a copy of `model` with `scaling` as its rope_scaling and a context of `length` tokens."""
    config = replace(model.config, rope_scaling=scaling, max_position_embeddings=length)
    with model.device:
        other = K2Model(config, seed=None, part=model.part)
    other.load_state_dict(model.state_dict())
    return other.eval()


def variants(annealed: K2Model, p: Parameters, original: int) -> dict[str, K2Model]:
    """Return three ways to read the extended length with the annealed weights; the last one, YaRN, is kept.

    `none` keeps the frequencies of the anneal, `linear` divides them all by the last step's factor.
    """
    length = p.extended_length
    linear = rescaled(annealed, annealed.config.rope_scaling, length)
    linear.frequencies_P /= p.yarn.factor
    return {
        "none": rescaled(annealed, annealed.config.rope_scaling, length),
        "linear": linear,
        "yarn": rescaled(annealed, yarn(p, original, length), length),
    }
