"""The content of the pages: figures of the arms, criteria and their outcomes, in the form of the templates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from studies.registration import Registration
from studies.schema import Study
from studies.store import confirmatory
from studies.verdict import Judged, Outcome, StudyVerdict, assess, judge

ARM_FIGURES = ("loss", "bits_per_byte", "peak_max_logit", "clipped_head_steps", "clip_norm", "spikes")
SYMBOLS = {"below": "<", "above": ">", "within": "within ±", "each_at_most": "each ≤", "each_at_least": "each ≥"}


@dataclass(frozen=True)
class Page:
    """One study with its results and verdict; `explores` says why its runs do not confirm, None if they do."""

    registration: Registration
    results: dict[str, Any]
    judged: Judged
    verdict: StudyVerdict
    p: float
    reason: str
    explores: str | None

    @property
    def study(self) -> Study:
        """The registered study."""
        return self.registration.study


def pages(registrations: Mapping[str, Registration], results: Mapping[str, dict[str, Any]]) -> dict[str, Page]:
    """Return a page for each study that has results.

    The paper's claims and our own findings are two tables, each with its own Holm correction.
    """
    judged = {name: _judged(registrations[name].study, results[name]) for name in results}
    out = {}
    for finding in ("paper", "own"):
        family = {name: _is_sampled(r.study) for name, r in registrations.items() if r.study.finding == finding}
        table = {name: judged_study for name, judged_study in judged.items() if name in family}
        for name, (verdict, p, reason) in judge(table, family).items():
            explores = confirmatory(results[name], registrations[name])
            out[name] = Page(registrations[name], results[name], judged[name], verdict, p, reason, explores)
    return out


def _judged(study: Study, results: dict[str, Any]) -> Judged:
    edges = [name for name, sweep in results["sweeps"].items() if not sweep["inside"]]
    return assess(study, results["runs"], edges)


def _is_sampled(study: Study) -> bool:
    return any(c.role == "claim" and c.sampled for c in study.criteria)


def arm_rows(study: Study, runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each arm and budget: means over the finished seeds, and the standard deviation of the loss."""
    out = []
    for arm in study.arms:
        for budget in study.budgets_of(study.arms[arm]):
            own = [run for run in runs if (run["arm"], run["budget"]) == (arm, budget)]
            ended = [run["figures"] for run in own if run["failed"] is None]
            row: dict[str, Any] = {"arm": arm, "budget": budget, "failed": len(own) - len(ended), "n": len(ended)}
            if ended:
                names = (*ARM_FIGURES, "tokens", "flops", "cpu_seconds", "parameters", "parameters_active")
                row |= {name: fmean(float(figures[name]) for figures in ended) for name in names}
                row["sd"] = stdev(figures["loss"] for figures in ended) if len(ended) > 1 else 0.0
            out.append(row)
    return out


def criterion_rows(judged: Judged) -> list[dict[str, str]]:
    """Return a row for each criterion and budget, in words."""
    return [
        {
            "role": outcome.criterion.role.replace("_", " "),
            "says": outcome.criterion.says,
            "budget": outcome.budget,
            "test": _test(outcome),
            "found": _found(outcome),
            "p": f"{outcome.p:.2g}" if outcome.criterion.sampled else "–",
            "state": {"holds": "holds", "turned": "**turned round**", "open": "open"}[outcome.state()],
        }
        for outcome in judged.outcomes
    ]


def _test(outcome: Outcome) -> str:
    c = outcome.criterion
    if c.identical is not None:
        return "the same bits" if c.identical else "other bits"
    bound = getattr(c, c.test)
    figure = f"log {c.measure}" if c.log else c.measure
    return f"{figure} {SYMBOLS[c.test]}{'' if c.test == 'within' else ' '}{bound:g}"


def _found(outcome: Outcome) -> str:
    if outcome.estimate is not None:
        e = outcome.estimate
        return f"{e.mean:+.4f} [{e.low:+.4f}, {e.high:+.4f}], n {e.n}"
    if outcome.values:
        return f"{min(outcome.values):.4g} … {max(outcome.values):.4g}"
    return "–"


def scale_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the scale beside the verdict: parameters and tokens of the largest runs."""
    finished = [row for row in rows if row["n"]]
    if not finished:
        return "no run ended"
    return (
        f"{max(row['parameters'] for row in finished) / 1e6:.2f}M parameters "
        f"({max(row['parameters_active'] for row in finished) / 1e6:.2f}M active), "
        f"{max(row['tokens'] for row in finished) / 1e6:.2f}M tokens"
    )
