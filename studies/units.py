"""Split a study into units: one arm (or one point of a sweep) on one seed at one budget."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from statistics import fmean
from typing import Any

from engine.artifacts.files import canonical_json, digest_bytes
from engine.errors import UserError
from engine.model.flops import flops_per_token
from engine.model.parameters import config_from_parameters
from engine.optim.schedule import Schedule
from studies.registration import overlay
from studies.schema import Arm, Settings, Study, Sweep

KEY_LENGTH = 16


@dataclass(frozen=True)
class Unit:
    """One training run. `trunk` is the unit whose checkpoint it starts from, `leaves` the step of that checkpoint.

    `keep` are the steps whose checkpoints other units start from.
    """

    arm: str
    seed: int
    budget: str
    settings: Settings
    steps: int
    split: str = "test"
    trunk: "Unit | None" = None
    leaves: int = 0
    keep: tuple[int, ...] = ()

    def key(self, code: str, shards: str) -> str:
        """Return a hash of all that decides the unit's bits: settings, seed, steps, trunk, code and data."""
        return digest_bytes(canonical_json({**self._identity(), "code": code, "shards": shards}))[:KEY_LENGTH]

    def _identity(self) -> dict[str, Any]:
        return {
            "arm": self.arm,
            "settings": self.settings.model_dump(),
            "seed": self.seed,
            "steps": self.steps,
            "split": self.split,
            "leaves": self.leaves,
            "keep": self.keep,
            "trunk": self.trunk._identity() if self.trunk else None,
        }

    @property
    def folder(self) -> str:
        """The name of the unit's folder below the study's work folder, without the key."""
        return f"{self.arm}-{self.budget}-{self.seed}".replace("/", "-")


def settings_of(study: Study, arm: Arm | Sweep, winners: dict[str, dict[str, float]], where: str) -> Settings:
    """Return the study's settings with the arm's changes; where the arm is tuned, a sweep's winner comes first."""
    base = study.settings.model_dump()
    tuned_by = arm.tuned_by if isinstance(arm, Arm) else None
    if tuned_by is not None:
        tuned = overlay(base, study.sweeps[tuned_by].settings, where)
        for dotted, value in winners[tuned_by].items():
            tuned = overlay(tuned, _nested(dotted, value), where)
        base = tuned
    try:
        return Settings.model_validate(overlay(base, arm.settings, where))
    except ValueError as error:
        raise UserError(f"{where}: {' '.join(str(error).split())}") from error


def _nested(dotted: str, value: float) -> dict[str, Any]:
    first, _, rest = dotted.partition(".")
    return {first: _nested(rest, value) if rest else value}


def sweep_units(study: Study, name: str, seeds: tuple[int, ...] | None = None) -> dict[tuple[float, ...], list[Unit]]:
    """Return a sweep's units by grid point; they are measured on the validation split, never on the test split."""
    sweep = study.sweeps[name]
    base = settings_of(study, sweep, {}, f"sweeps.{name}").model_dump()
    out: dict[tuple[float, ...], list[Unit]] = {}
    for point in itertools.product(*sweep.grid.values()):
        values = base
        for dotted, value in zip(sweep.grid, point, strict=True):
            values = overlay(values, _nested(dotted, value), f"sweeps.{name}.grid")
        label = "sweep/" + name + "/" + ",".join(f"{value:g}" for value in point)
        settings = Settings.model_validate(values)
        out[point] = [Unit(label, seed, "tuning", settings, sweep.steps, "validation") for seed in seeds or sweep.seeds]
    return out


def arm_units(
    study: Study, winners: dict[str, dict[str, float]], vocab_size: int, seeds: tuple[int, ...] | None = None
) -> list[Unit]:
    """Return all units of the arms, each trunk before its branches. `seeds` None means the registered ones."""
    units: list[Unit] = []
    ordered = sorted(study.arms, key=lambda name: study.arms[name].branch_of is not None)
    for name in ordered:
        settings = settings_of(study, study.arms[name], winners, f"arms.{name}")
        for budget in study.budgets_of(study.arms[name]):
            steps = _steps(study, name, settings, budget, winners, vocab_size)
            for seed in seeds or study.seeds:
                unit = Unit(name, seed, budget, settings, steps)
                if study.arms[name].branch_of:
                    units.append(_branch(study, unit, units))
                else:
                    units.append(_trunk(study, unit, winners))
    return units


def _steps(
    study: Study, name: str, settings: Settings, budget: str, winners: dict[str, dict[str, float]], vocab_size: int
) -> int:
    """Return the budget's steps; under equal compute, as many as the reference arm's FLOPs allow."""
    steps = study.budgets[budget]
    if study.equal_compute is None or study.equal_compute == name:
        return steps
    reference = settings_of(study, study.arms[study.equal_compute], winners, f"arms.{study.equal_compute}")
    return max(1, round(steps * step_flops(reference, vocab_size) / step_flops(settings, vocab_size)))


def step_flops(settings: Settings, vocab_size: int) -> int:
    """Return the FLOPs of one training step's forward and backward."""
    config = config_from_parameters(settings.model, vocab_size, settings.sequence_length)
    tokens = settings.batch_size * settings.sequence_length
    return tokens * flops_per_token(config, settings.sequence_length).training


def _trunk(study: Study, unit: Unit, winners: dict[str, dict[str, float]]) -> Unit:
    """Return the unit with the steps at which others branch off."""
    keep = {
        _leaves(settings_of(study, arm, winners, f"arms.{name}"), study.budgets[budget])
        for name, arm in study.arms.items()
        if arm.branch_of == unit.arm
        for budget in study.budgets_of(arm)
        if study.budgets[budget] <= unit.steps
    }
    return replace(unit, keep=tuple(sorted(keep)))


def _branch(study: Study, unit: Unit, units: list[Unit]) -> Unit:
    """Return the unit with its trunk's longest run, and the step at which it branches off."""
    name = study.arms[unit.arm].branch_of
    trunk = max((u for u in units if (u.arm, u.seed) == (name, unit.seed)), key=lambda u: u.steps)
    leaves = _leaves(unit.settings, unit.steps)
    if leaves not in trunk.keep:
        raise UserError(f"arms.{unit.arm}: {name} ends before step {leaves}, where this arm leaves it.")
    return replace(unit, trunk=trunk, leaves=leaves)


def _leaves(settings: Settings, steps: int) -> int:
    return schedule_of(settings, steps).begin("cosine")


def schedule_of(settings: Settings, steps: int) -> Schedule:
    """Return the schedule of a run of `steps` steps."""
    s, peak = settings.schedule, settings.optimizer.lr
    warmup = min(s.warmup, steps)
    rest = round(steps * s.horizon) - warmup
    decay = {"wsd": min(round(steps * s.decay), rest), "cosine": rest, "constant": 0}[s.shape]
    return Schedule.warmed_up(peak, warmup, ("constant", rest - decay, None), ("cosine", decay, peak * s.floor))


def winner(results: dict[tuple[float, ...], list[float | None]], sweep: Sweep) -> tuple[dict[str, float], bool]:
    """Return the grid point with the lowest mean loss, as dotted settings, and whether its rate is inside the grid.

    A point with a failed run cannot win. Raises UserError if no point is whole.
    """
    means = {point: mean for point, losses in results.items() if (mean := mean_loss(losses)) is not None}
    if not means:
        raise UserError(f"sweep {sweep.about!r}: every point failed; lower the learning rates of its grid")
    best = min(means, key=lambda point: (means[point], point))
    first, rates = best[0], sorted(next(iter(sweep.grid.values())))
    return dict(zip(sweep.grid, best, strict=True)), rates[0] < first < rates[-1]


def mean_loss(losses: Sequence[float | None]) -> float | None:
    """Return the mean over seeds; None where one of the runs failed, or ended in a loss that is not finite."""
    ended = [loss for loss in losses if loss is not None and isfinite(loss)]
    return fmean(ended) if len(ended) == len(losses) else None
