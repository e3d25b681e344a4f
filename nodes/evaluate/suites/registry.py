"""All suites, in the order of the report.

To add a suite: write `suites/<name>.py` with `TITLE`, `ABOUT` (how it measures, for the report) and
`run(model, tok, data, p) -> SuiteResult`; give it a section in `schema.Parameters` and in
conf/base/parameters/evaluate.yml; list it here. Its first row is its headline; rows with `outcomes` get paired
intervals between checkpoints. Table, changes, cards, metrics and pages follow; a plot is one function in
`report/figures.py`. A suite must be a pure function of its arguments: draws are keyed by (seed, purpose, index).
"""

from collections.abc import Callable
from dataclasses import dataclass

from engine.model.model import K2Model
from engine.text.tokenizer import K2Tokenizer
from nodes.evaluate.report.comparison import SuiteInfo
from nodes.evaluate.results import SuiteResult
from nodes.evaluate.schema import Parameters
from nodes.evaluate.suites import arithmetic, bits_per_byte, lengths, quiz, samples, tools
from nodes.evaluate.suites.material import Material

Run = Callable[[K2Model, K2Tokenizer, Material, Parameters], SuiteResult]


@dataclass(frozen=True)
class Suite:
    """A suite: its description for the report, and the function that runs it."""

    info: SuiteInfo
    run: Run


SUITES = (
    Suite(SuiteInfo("bits_per_byte", bits_per_byte.TITLE, bits_per_byte.ABOUT), bits_per_byte.run),
    Suite(SuiteInfo("lengths", lengths.TITLE, lengths.ABOUT), lengths.run),
    Suite(SuiteInfo("quiz", quiz.TITLE, quiz.ABOUT), quiz.run),
    Suite(SuiteInfo("arithmetic", arithmetic.TITLE, arithmetic.ABOUT), arithmetic.run),
    Suite(SuiteInfo("tools", tools.TITLE, tools.ABOUT), tools.run),
    Suite(SuiteInfo("samples", samples.TITLE, samples.ABOUT), samples.run),
)
