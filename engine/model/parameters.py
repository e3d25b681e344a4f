"""The `model:` block of a stage's parameters: K2Config's fields, some of which may be null until a run decides them."""

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import lru_cache
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from engine.errors import UserError
from engine.model.config import K2Config, number_wanted

_ELSEWHERE = frozenset({"max_position_embeddings", "rope_scaling"})
"""Fields of K2Config that are never in the block: the sequence length and the extend stage decide them."""
_TYPES = {field.name: field.type for field in fields(K2Config) if field.name not in _ELSEWHERE}
_MAY_BE_NULL = frozenset({"vocab_size", "routed_scaling_factor"})


def checked_block(block: Any) -> dict[str, Any]:
    """Return the block with all fields and exact number types; only `vocab_size` may be left out.

    Raises pydantic's ValidationError, which names each field that is unknown, missing or of the wrong kind.
    """
    if not isinstance(block, dict):
        raise ValueError(f"give a mapping of {', '.join(_TYPES)}")
    given = {"vocab_size": None, **block}
    faults = [InitErrorDetails(type="extra_forbidden", loc=(n,), input=given[n]) for n in given if n not in _TYPES]
    faults += [InitErrorDetails(type="missing", loc=(name,), input=block) for name in _TYPES if name not in given]
    for name in (name for name in _TYPES if name in given):
        null = given[name] is None and name in _MAY_BE_NULL
        if not null and (advice := number_wanted(name, _TYPES[name], given[name])):
            error = PydanticCustomError("model_number", "give {advice}", {"advice": advice})
            faults.append(InitErrorDetails(type=error, loc=(name,), input=given[name]))
    if faults:
        raise ValidationError.from_exception_data("model", faults)
    return {name: _exact(kind, given[name]) for name, kind in _TYPES.items()}


def _exact(kind: Any, value: Any) -> Any:
    return float(value) if kind is float and value is not None else value


ModelBlock = Annotated[dict[str, Any], BeforeValidator(checked_block)]
"""The type of such a block in a schema."""


def config_from_parameters(block: Mapping[str, Any], vocab_size: int, max_position_embeddings: int) -> K2Config:
    """Return the configuration that a `model:` block describes, with its null fields decided.

    A `vocab_size` of null is the tokenizer's, and a `routed_scaling_factor` of null is computed from the numbers of
    experts (`gate_factor`). The context is the length that the stage trains at.

    Args:
        block: K2Config's fields except for the context and its scaling.
        vocab_size: number of tokens of the tokenizer.
        max_position_embeddings: the context, in tokens.

    Raises:
        UserError: the block fixes a vocabulary too small for the tokenizer, or a field is missing or unknown.

    """
    fixed, factor = block.get("vocab_size"), block.get("routed_scaling_factor")
    if fixed is not None and fixed < vocab_size:
        raise UserError(
            f"parameters: model.vocab_size is {fixed}, but the tokenizer has {vocab_size} tokens; raise it or set null"
        )
    settled = {
        "vocab_size": vocab_size if fixed is None else fixed,
        "max_position_embeddings": max_position_embeddings,
        "routed_scaling_factor": 1.0 if factor is None else factor,  # 1 until the numbers of experts are checked
    }
    config = K2Config.from_fields({**block, **settled}, "parameters: model")
    if factor is not None:
        return config
    return replace(config, routed_scaling_factor=gate_factor(config.n_routed_experts, config.num_experts_per_tok))


@lru_cache
def gate_factor(n_experts: int, k: int, samples: int = 20_000) -> float:
    """Return the routed scaling factor that gives a mixture the output size of a dense feed-forward.

    Mean of 1/‖p‖₂ over Gaussian router logits, sigmoid, top k, normalised to sum 1 (Moonlight, figure 6):
    2.446 for 64 choose 6, 2.828 for 384 choose 8. Rounded to 3 places, from a fixed stream.
    """
    import numpy as np

    random = np.random.Generator(np.random.Philox(key=[n_experts, k]))
    total, done = 0.0, 0
    while done < samples:
        rows = min(samples - done, max(1, 2_000_000 // n_experts))
        logits = random.standard_normal((rows, n_experts))
        top = np.sort(1 / (1 + np.exp(-np.partition(logits, n_experts - k, axis=1)[:, n_experts - k :])), axis=1)
        p = top / top.sum(axis=1, keepdims=True)
        total += float((1 / np.sqrt((p * p).sum(axis=1))).sum())
        done += rows
    return round(total / samples, 3)
