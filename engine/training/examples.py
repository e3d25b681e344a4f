"""The fine-tuning examples as tokens, for SFT and for RL's PTX loss, and the order in which steps take them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import UserError
from engine.keyed import generator
from engine.text.chat import encode_chat
from engine.text.dialogue import read_dialogue
from engine.text.tokenizer import K2Tokenizer
from engine.training.settings import TRAJECTORY, VALUES
from engine.training.values import value_targets

Row = tuple[list[int], list[bool]]


@dataclass(frozen=True)
class Encoded:
    """The examples of one split by kind, as (ids, mask of assistant tokens), and the number of those too long."""

    by_kind: dict[str, list[Row]]
    left_out: int


def encode(
    rows: Iterable[Mapping[str, Any]],
    tokenizer: K2Tokenizer,
    max_tokens: int,
    values: bool = False,
) -> Encoded:
    """Encode examples with the chat template; those of more than `max_tokens` tokens are left out and counted.

    The assistant's turns are the targets. With `values` a trajectory is an example of the kind `values` as well.

    Raises:
        UserError: a dialogue cannot be read, or its calls and results cannot be paired; the message names the row.

    """
    by_kind: dict[str, list[Row]] = {}
    left_out = 0
    for row in rows:
        try:
            messages, tools = read_dialogue(row["messages"], row["tools"])
            ids, mask = encode_chat(tokenizer, messages, tools)
        except UserError as error:
            raise UserError(f"sft_examples, row {row['id']}: {error}") from None
        if len(ids) > max_tokens:
            left_out += 1
            continue
        kind = row["kind"]
        by_kind.setdefault(kind, []).append((ids, mask))
        if values and kind == TRAJECTORY and any((example := _values(tokenizer, messages))[1]):
            by_kind.setdefault(VALUES, []).append(example)
    return Encoded(by_kind, left_out)


def _values(tokenizer: K2Tokenizer, messages: list[dict[str, Any]]) -> Row:
    """Return a dialogue as an example of `values`, without its declarations: no value comes from those 75 tokens."""
    ids, mask = encode_chat(tokenizer, messages, [])
    return ids, value_targets(tokenizer, messages, ids, mask)


def require(encoded: Encoded, sizes: Mapping[str, int], field: str) -> None:
    """Refuse a batch with kinds that have no example short enough; the message names `field` of the parameters."""
    for kind, size in sizes.items():
        if size > 0 and not encoded.by_kind.get(kind):
            raise UserError(
                f"sft_examples has no training example of kind {kind!r} within max_tokens: raise max_tokens, or set "
                f"{field}.{kind} to 0"
            )


def places(examples: int, kind: str, step: int, size: int, seed: int) -> list[int]:
    """Return which `size` of a kind's examples step `step` takes, epoch after epoch without replacement."""
    out: list[int] = []
    orders: dict[int, list[int]] = {}
    for place in range(step * size, (step + 1) * size):
        epoch, index = divmod(place, examples)
        if epoch not in orders:
            orders[epoch] = generator(seed, f"examples/{kind}", epoch).permutation(examples).tolist()
        out.append(orders[epoch][index])
    return out
