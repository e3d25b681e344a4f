"""The report's first lines: what the last checkpoint can and cannot do, one sentence per skill, with figures.

A skill is claimed if its whole interval is above the score of guessing or, where guessing is impossible, above the
first checkpoint's interval; text is predicted well if no counting model of the run does better.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from nodes.evaluate.report.comparison import interval_text_of, value_text_of
from nodes.evaluate.results import Results, Row

SKILLS: Final = {
    "arithmetic/sampled": ("answer sums of the kind it was trained on", "answer sums"),
    "tools/success_sampled": (
        "serve users with the simulated tools, in tasks it has not seen",
        "serve users with tools",
    ),
    "quiz/all": ("pick a fact of its training text among four", "tell the facts of its training text"),
}
"""Metric -> wording of the skill if it is present, and if it is absent."""
TEXT: Final = "bits_per_byte/all"
COUNTING: Final = "kneser_ney_5gram_bits_per_byte"
KEPT: Final = 0.25
"""Bits per byte of natural text that later stages may cost before a report says that they forget."""


@dataclass(frozen=True)
class Abilities:
    """The sentences of a report's first lines."""

    can: tuple[str, ...]
    cannot: tuple[str, ...]


def abilities(results: Results, pretrain: Mapping[str, Any]) -> Abilities:
    """Return one sentence for each skill that the last checkpoint was measured on."""
    can: list[str] = []
    cannot: list[str] = []
    for metric, (skill, lack) in SKILLS.items():
        rows = _rows(results, metric)
        if len(rows) > 1:
            (first, before), (_, after) = rows[0], rows[-1]
            good = _shown(before, after)
            text = f"{skill if good else lack}: {_figure(after)} ({_beside(first, before, after)})"
            (can if good else cannot).append(text)
    for good, text in _of_text(results, pretrain):
        (can if good else cannot).append(text)
    return Abilities(tuple(can), tuple(cannot))


def _rows(results: Results, metric: str) -> list[tuple[str, Row]]:
    rows = [(name, suite.row(metric)) for name, suites in results.items() for suite in suites.values()]
    return [(name, row) for name, row in rows if row is not None]


def _shown(before: Row, after: Row) -> bool:
    first = before.value if before.high is None else before.high
    floor = first if after.chance is None else after.chance
    return after.low is not None and after.low > floor


def _figure(row: Row) -> str:
    return f"{value_text_of(row)}{f' [{interval_text_of(row)}]' if interval_text_of(row) else ''}"


def _beside(first: str, before: Row, after: Row) -> str:
    chance = "" if after.chance is None else f", chance {100 * after.chance:.1f} %"
    return f"{first} checkpoint {value_text_of(before)}{chance}"


def _of_text(results: Results, pretrain: Mapping[str, Any]) -> list[tuple[bool, str]]:
    """Return sentences on the model against counting (validation text), and on what later stages cost (test text)."""
    sentences = []
    model, counted = pretrain.get("validation_bits_per_byte"), pretrain.get(COUNTING)
    if model is not None and counted is not None:
        better = float(model) < float(counted)
        skill = "predict text better than counting five-grams does" if better else "predict text as counting does"
        sentences.append((better, f"{skill}: {float(model):.3f} (base) and {float(counted):.3f} bits a byte"))
    rows = _rows(results, TEXT)
    if len(rows) > 1:
        (first, before), (last, after) = rows[0], rows[-1]
        lost = after.value - before.value
        kept = lost <= KEPT
        skill = "keep what pre-training taught" if kept else "keep all that pre-training taught"
        sentences.append(
            (kept, f"{skill}: {value_text_of(before)} ({first}) and {value_text_of(after)} ({last}) bits a byte")
        )
    return sentences
