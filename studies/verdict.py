"""Compute a study's verdict from its criteria and its runs; no verdict is written by hand.

A claim with several criteria is supported only if all of them hold, so its p value is the largest of theirs
(intersection–union: no correction is needed within a study). It is contradicted if any is reversed, so there the
smallest counts, times their number. Holm's correction runs over the table of studies (see `judge`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, log
from typing import Any, Literal

from studies.schema import CONTROLS, LEAST_SEEDS, Criterion, Study
from studies.statistics import Estimate, estimate, holm, p_above, p_below, p_outside, p_within

ALPHA = 0.05
StudyVerdict = Literal["supported", "contradicted", "inconclusive", "not testable here"]
State = Literal["holds", "turned", "open"]
Result = Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """One criterion at one budget. `p` tests that it does not hold, `p_turned` that it is not reversed.

    `values` are the contrast of each seed, or the runs' own figures where the test is run by run.
    """

    criterion: Criterion
    budget: str
    p: float
    p_turned: float
    values: tuple[float, ...] = ()
    estimate: Estimate | None = None

    def state(self, alpha: float = ALPHA) -> State:
        """Return whether the criterion holds, is reversed ("turned"), or is left open."""
        if self.p <= alpha:
            return "holds"
        return "turned" if self.p_turned <= alpha else "open"


@dataclass(frozen=True)
class Judged:
    """A study's outcomes and their p values. `p` and `p_turned` are the claim's, before Holm's correction.

    `sampled` is false where the claim is decided run by run, without a p value; it is then in no family of tests.
    """

    outcomes: tuple[Outcome, ...]
    p: float
    p_turned: float
    sampled: bool
    obstacle: tuple[StudyVerdict, str] | None = None


def assess(study: Study, results: Sequence[Result], edges: Sequence[str] = ()) -> Judged:
    """Test all criteria on the results of the arms' units; `edges` are the sweeps whose winner lies at their edge."""
    runs = {(r["arm"], r["budget"], r["seed"]): r["figures"] for r in results if r["failed"] is None}
    outcomes = tuple(
        measure(criterion, budget, runs, study.seeds)
        for criterion in study.criteria
        for budget in study.budgets_of(criterion)
    )
    claims = [outcome for outcome in outcomes if outcome.criterion.role == "claim"]
    return Judged(
        outcomes,
        p=max(outcome.p for outcome in claims),
        p_turned=min(1.0, len(claims) * min(outcome.p_turned for outcome in claims)),
        sampled=any(outcome.criterion.sampled for outcome in claims),
        obstacle=_obstacle(study, outcomes, edges),
    )


def measure(
    criterion: Criterion, budget: str, runs: Mapping[tuple[str, str, int], Result], seeds: Sequence[int]
) -> Outcome:
    """Test one criterion at one budget, without the seeds of which a run is missing, failed or not finite.

    Fewer than `LEAST_SEEDS` whole seeds decide nothing.
    """
    whole = [
        [runs[arm, budget, seed][criterion.measure] for arm in criterion.involved]
        for seed in seeds
        if all(_usable(criterion, runs.get((arm, budget, seed), {})) for arm in criterion.involved)
    ]
    if len(whole) < LEAST_SEEDS:
        return Outcome(criterion, budget, 1.0, 1.0)
    if criterion.sampled:
        return _sampled(criterion, budget, whole)
    return _run_by_run(criterion, budget, whole)


def _usable(criterion: Criterion, figures: Result) -> bool:
    """Return whether a run has the figure, as a number that the test can read, or as a digest."""
    value = figures.get(criterion.measure)
    if not isinstance(value, int | float):
        return value is not None
    return isfinite(value) and (value > 0 or not criterion.log)


def _sampled(criterion: Criterion, budget: str, whole: list[list[float]]) -> Outcome:
    weights = tuple((criterion.contrast or {}).values())
    read = log if criterion.log else float
    values = [sum(w * read(x) for w, x in zip(weights, row, strict=True)) for row in whole]
    if criterion.below is not None:
        p, turned = p_below(values, criterion.below), p_above(values, criterion.below)
    elif criterion.above is not None:
        p, turned = p_above(values, criterion.above), p_below(values, criterion.above)
    else:
        assert criterion.within is not None
        p, turned = p_within(values, criterion.within), p_outside(values, criterion.within)
    return Outcome(criterion, budget, p, turned, tuple(values), estimate(values))


def _run_by_run(criterion: Criterion, budget: str, whole: list[list[Any]]) -> Outcome:
    """Return an outcome that holds if it does so in every run, and is reversed if it does so in none."""
    values: tuple[float, ...] = ()
    if criterion.identical is not None:
        met = [(len(set(row)) == 1) == criterion.identical for row in whole]
    else:
        values = tuple(float(x) for row in whole for x in row)
        bound = criterion.each_at_most if criterion.each_at_most is not None else criterion.each_at_least
        assert bound is not None
        met = [x <= bound if criterion.each_at_most is not None else x >= bound for x in values]
    return Outcome(criterion, budget, 0.0 if all(met) else 1.0, 1.0 if any(met) else 0.0, values)


def _obstacle(study: Study, outcomes: Sequence[Outcome], edges: Sequence[str]) -> tuple[StudyVerdict, str] | None:
    """Return what forbids a verdict on the claim, whatever its own criteria say; None if nothing does."""
    if study.not_testable is not None:
        return "not testable here", study.not_testable
    for outcome in outcomes:
        result = f"{outcome.criterion.says} ({outcome.budget}): {outcome.state()}"
        if outcome.criterion.role == "precondition" and outcome.state() != "holds":
            return "not testable here", f"a precondition does not hold: {result}"
    if edges:
        return "inconclusive", f"the best learning rate of sweep {edges[0]} lies at the edge of its grid"
    for outcome in outcomes:
        result = f"{outcome.criterion.says} ({outcome.budget}): {outcome.state()}"
        if outcome.criterion.role in CONTROLS and outcome.state() != "holds":
            return "inconclusive", f"a {outcome.criterion.role.replace('_', ' ')} does not hold: {result}"
    return None


def judge(table: Mapping[str, Judged], family: Mapping[str, bool]) -> dict[str, tuple[StudyVerdict, float, str]]:
    """Return study → verdict, adjusted p and the reason in words, for the studies of one table.

    `family` says for every registered study of the table whether its claim has a p value; studies not yet run count as
    p = 1, so a verdict can only become firmer as the table fills. The adjusted p is the one the verdict rests on.
    """
    size = sum(family.values())
    sampled = {name: judged for name, judged in table.items() if judged.sampled}
    p = holm({name: judged.p for name, judged in sampled.items()}, size)
    turned = holm({name: judged.p_turned for name, judged in sampled.items()}, size)
    return {
        name: _verdict(judged, p.get(name, judged.p), turned.get(name, judged.p_turned))
        for name, judged in table.items()
    }


def _verdict(judged: Judged, p: float, p_turned: float) -> tuple[StudyVerdict, float, str]:
    if judged.obstacle is not None:
        return judged.obstacle[0], p, judged.obstacle[1]
    if p <= ALPHA:
        return "supported", p, "all criteria of the claim hold"
    if p_turned <= ALPHA:
        return "contradicted", p_turned, "a criterion of the claim is turned round"
    short = [o for o in judged.outcomes if o.criterion.role == "claim" and o.state() != "holds"]
    if not short:
        return "inconclusive", p, "not after Holm's correction"
    return "inconclusive", p, f"{short[0].criterion.says} ({short[0].budget}): {short[0].state()}"
