"""Verifiable tasks: reasoning-gym's `chain_sum`, split once and for all by the hash of the question.

Five stages use these items and must never see each other's: pretrain (as maths documents), sft (as demonstrations),
rl (as prompts), tuning (picks the checkpoint) and evaluation (the reported number). The split is a function of the
question alone, so it cannot drift with a seed, a size or another stage's parameters.

Instead of drawing from reasoning-gym's generator, whose repeats and order depend on a seed, all its questions are
enumerated (84,000 for three or four one-digit terms). The verifier is reasoning-gym's own.

The prompt is the compact expression, "4-1-7=", and the answer its value, "-4": a model of a few million parameters
with single-digit tokens learns it in under a CPU minute, and six tokens keep reinforcement learning cheap.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import product, zip_longest
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Messages = list[dict[str, Any]]
Split = Literal["pretrain", "sft", "rl", "tuning", "evaluation"]

# Upper bounds of each split on the unit interval of hashes. Three one-digit terms alone (4,000 questions) still
# leave 1,200 for evaluation, whose paired bootstrap needs 1,000, and 400 for tuning.
SPLITS: dict[str, float] = {"pretrain": 0.25, "sft": 0.40, "rl": 0.60, "tuning": 0.70, "evaluation": 1.0}

MAX_QUESTIONS = 500_000  # enumerated in memory: about 1 s and 150 MB


class TaskSettings(BaseModel):
    """Which sums are asked; the fields have the names of reasoning-gym's `ChainSumConfig`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_terms: int = Field(3, ge=2, description="fewest numbers in a sum")
    max_terms: int = Field(4, ge=2, description="most numbers in a sum")
    min_digits: int = Field(1, ge=1, description="fewest digits of a number; all numbers of one sum have as many")
    max_digits: int = Field(1, ge=1, description="most digits of a number")

    @model_validator(mode="after")
    def _enumerable(self) -> "TaskSettings":
        if self.max_terms < self.min_terms or self.max_digits < self.min_digits:
            raise ValueError("max_terms and max_digits must not be below min_terms and min_digits")
        if self.count > MAX_QUESTIONS:
            raise ValueError(
                f"these settings make {self.count:,} questions; lower max_terms or max_digits to stay within "
                f"{MAX_QUESTIONS:,}"
            )
        return self

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(terms, digits) of every kind of sum, easiest first."""
        return [
            (terms, digits)
            for terms in range(self.min_terms, self.max_terms + 1)
            for digits in range(self.min_digits, self.max_digits + 1)
        ]

    @property
    def count(self) -> int:
        """The number of distinct questions over all splits."""
        return sum(len(_numbers(digits)) ** terms * 2 ** (terms - 1) for terms, digits in self.shapes)


@dataclass(frozen=True)
class Item:
    """One question with its true answer; `key` is the question's 64-bit hash in hexadecimal."""

    prompt: str
    answer: str
    key: str


def split_of(prompt: str) -> str:
    """Return the one split to which a question belongs, whatever the settings that produced it."""
    return _split_of_key(_key(prompt))


def available(task: TaskSettings, split: Split) -> int:
    """Return the number of distinct questions in `split`."""
    return sum(len(stratum) for stratum in _strata(task, split))


def items(task: TaskSettings, split: Split, n: int, seed: int) -> list[Item]:
    """Draw `n` distinct questions of `split`, an equal share from each (terms, digits) while they last.

    A pure function of its arguments; `items(…, n, …)` is a prefix of `items(…, n + 1, …)`.

    Raises ValueError if the split holds fewer than `n` questions.
    """
    have = available(task, split)
    if n > have:
        raise ValueError(f"{n} questions asked of split {split!r}, which holds {have}: ask for fewer or widen the task")
    shuffled = [sorted(stratum, key=lambda item: _shuffle_key(item, seed)) for stratum in _strata(task, split)]
    mixed = [item for row in zip_longest(*shuffled) for item in row if item is not None]
    return mixed[:n]


def score(item: Item, response: str) -> float:
    """Return the reward of a response: 1.0 if reasoning-gym's verifier gives full marks, else 0.0.

    The verifier's partial credit (answer inside the response, by length) is dropped: it would pay half for "-4" or "44"
    where "4" is right, and a policy learns to collect it before it learns to add.
    """
    return 1.0 if _verifier().score_answer(response, {"answer": item.answer}) >= 1.0 else 0.0


def question(item: Item) -> Messages:
    """Return the messages before the answer, in OpenAI's form.

    The system turn is empty instead of K2's default persona: a third of the tokens of such a dialogue, which
    reinforcement learning pays for in every rollout.
    """
    return [{"role": "system", "content": ""}, {"role": "user", "content": item.prompt}]


def demonstration(item: Item) -> Messages:
    """Return the messages of the question with the right answer."""
    return [*question(item), {"role": "assistant", "content": item.answer}]


def _key(prompt: str) -> str:
    return blake2b(prompt.encode(), digest_size=8, person=b"verifiable").hexdigest()


def _split_of_key(key: str) -> str:
    position = int(key, 16) / 2**64
    return next(name for name, bound in SPLITS.items() if position < bound or bound == 1.0)


def _shuffle_key(item: Item, seed: int) -> bytes:
    return blake2b(f"{seed}:{item.key}".encode(), digest_size=8).digest()


def _numbers(digits: int) -> range:
    """Return the operands of chain_sum: one-digit numbers include zero, longer ones have no leading zero."""
    return range(0 if digits == 1 else 10 ** (digits - 1), 10**digits)


def _questions(terms: int, digits: int) -> Iterator[Item]:
    """Yield every sum of this shape, in lexical order."""
    for numbers in product(_numbers(digits), repeat=terms):
        for signs in product((1, -1), repeat=terms - 1):
            tail = "".join(f"{'+' if sign > 0 else '-'}{number}" for sign, number in zip(signs, numbers[1:]))
            prompt = f"{numbers[0]}{tail}="
            total = numbers[0] + sum(sign * number for sign, number in zip(signs, numbers[1:]))
            yield Item(prompt, str(total), _key(prompt))


def _strata(task: TaskSettings, split: Split) -> list[list[Item]]:
    """Return the questions of a split, one list for each (terms, digits)."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    return [stratum[split] for stratum in _all_strata(task)]


@lru_cache(maxsize=4)
def _all_strata(task: TaskSettings) -> list[dict[str, list[Item]]]:
    """Return for each (terms, digits) its questions by split; enumerated once per process."""
    strata = []
    for terms, digits in task.shapes:
        by_split: dict[str, list[Item]] = {name: [] for name in SPLITS}
        for item in _questions(terms, digits):
            by_split[_split_of_key(item.key)].append(item)
        strata.append(by_split)
    return strata


@lru_cache(maxsize=1)
def _verifier() -> Any:
    """Return reasoning-gym's chain_sum; imported here because the import takes about two seconds."""
    import reasoning_gym

    return reasoning_gym.create_dataset("chain_sum", size=1, seed=0)
