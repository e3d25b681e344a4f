"""Detect evaluation questions in training documents, sum by sum instead of by a list of questions.

The verifiable task assigns every sum to a split by the hash of its question, so a document is judged by asking that
function about each sum it contains. This covers all questions that any later stage can ask, whatever its seed.
"""

import re
from collections.abc import Iterable, Sequence

import polars as pl

from engine.rollout.verifiable import TaskSettings, split_of

# A chain of whole numbers joined by plus and minus, not a piece of a longer number, date or identifier.
_CHAIN = re.compile(r"(?<![\w.+\-×*/])\d+(?: ?[+\-] ?\d+)+(?= ?=)")
_MAYBE = r"\d ?[+\-] ?\d+ ?="


def contaminated(texts: pl.Series, tasks: Sequence[dict[str, int]]) -> pl.Series:
    """Return for each text whether it asks a sum of one of the `tasks` from a split other than `pretrain`."""
    settings = [TaskSettings(**task) for task in tasks]
    maybe = texts.str.contains(_MAYBE)
    flags = [bool(flag) and _asks_held_out(text, settings) for text, flag in zip(texts, maybe)]
    return pl.Series("contaminated", flags, dtype=pl.Boolean)


def _asks_held_out(text: str, tasks: Iterable[TaskSettings]) -> bool:
    shapes = [shape for task in tasks for shape in task.shapes]
    for match in _CHAIN.finditer(text):
        question = match[0].replace(" ", "") + "="
        numbers = re.findall(r"\d+", question)
        if any(_has_shape(numbers, terms, digits) for terms, digits in shapes) and split_of(question) != "pretrain":
            return True
    return False


def _has_shape(numbers: list[str], terms: int, digits: int) -> bool:
    return len(numbers) == terms and all(len(number) == digits for number in numbers)
