"""How a verifiable question is put to the model, and its answer demonstrated.

The system turn is empty instead of K2's default persona: a third of the tokens of such a dialogue, which
reinforcement learning pays for in every rollout.
"""

from typing import Any

from engine.rollout.verifiable import Item

Messages = list[dict[str, Any]]


def question(item: Item) -> Messages:
    """Return the messages before the answer, in OpenAI's form."""
    return [{"role": "system", "content": ""}, {"role": "user", "content": item.prompt}]


def demonstration(item: Item) -> Messages:
    """Return the messages of the question with the right answer."""
    return [*question(item), {"role": "assistant", "content": item.answer}]
