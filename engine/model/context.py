"""Check how many positions a checkpoint can read."""

from engine.errors import UserError
from engine.model.config import K2Config


def require_context(config: K2Config, tokens: int, field: str) -> None:
    """Refuse `tokens` positions, the value of parameter `field`, if the checkpoint was not made for that many.

    `max_position_embeddings` is the trained length, or what YaRN stretches it to. Beyond it, rotary angles are new to
    the model and it degrades without an error, so this is checked before any training starts.
    """
    limit = config.max_position_embeddings
    if tokens > limit:
        how = (
            "without YaRN" if config.rope_scaling is None else f"with rope_scaling by {config.rope_scaling['factor']:g}"
        )
        raise UserError(
            f"parameters: {field} is {tokens}, but the checkpoint reads {limit} positions {how}; lower it, or extend "
            "the checkpoint further (extend.sequence_length, extend.yarn.factor)"
        )
