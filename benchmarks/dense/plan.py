"""The benchmark's runs, their kept results, and the summary of all."""

import argparse
import json
import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.dense import RATES, SEEDS, SHARES, SWEEP_SEED, SWEEP_SHARE
from benchmarks.report import Report, Row
from engine.artifacts.files import write_atomic
from engine.errors import UserError

CALIBRATION_STEPS, CALIBRATION_RATE = 40, 0.005  # fixed: a wider sweep keeps the runs that it has
TOKENS_MUST, TIME_MUST = 0.85, 1.0


@dataclass(frozen=True)
class Unit:
    """One run: a model, a seed, a learning rate and a number of steps."""

    model: str
    rate: float
    steps: int
    seed: int

    @property
    def name(self) -> str:
        """The name of the unit's file in the work directory."""
        return f"{self.model}-{self.rate}-{self.steps}-{self.seed}.json"


class Plan:
    """Calibration, then the sweeps, then the seeds: each step's units follow from the results before it."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        data = Path("data") / arguments.profile
        self.inputs = (data / "tokenization" / "tokenizer", data / "tokenization" / "shards")
        for path in self.inputs:
            if not path.exists():
                raise UserError(
                    f"{path} does not exist: run `make repro STAGE=tokenization PROFILE={arguments.profile}`."
                )
        self.work: Path = arguments.work or data / ".work" / "dense"
        self.minutes, self.workers, self.left = arguments.minutes, arguments.workers, arguments.units
        self.work.mkdir(parents=True, exist_ok=True)

    def carry_out(self) -> Report | None:
        """Run the remaining units, at most as many as requested; return the report once all are done."""
        calibration = Unit("dense", CALIBRATION_RATE, CALIBRATION_STEPS, SWEEP_SEED)
        if (calibrated := self._results([calibration])) is None:
            return None
        steps = round(60 * self.minutes / (calibrated[0]["cpu_seconds"] / CALIBRATION_STEPS))
        sweeps = {
            model: [Unit(model, rate, round(share * steps), SWEEP_SEED) for rate in RATES]
            for model, share in (("dense", 1.0), ("k2", SWEEP_SHARE))
        }
        swept = self._results([unit for units in sweeps.values() for unit in units])
        if swept is None:
            return None
        best = {model: best_rate([run for run in swept if run["model"] == model]) for model in sweeps}
        dense = [Unit("dense", best["dense"], steps, seed) for seed in SEEDS]
        sparse = [Unit("k2", best["k2"], round(share * steps), seed) for seed in SEEDS for share in SHARES]
        runs = self._results([*dense, *sparse])
        return None if runs is None else summarise(runs, swept, self.minutes)

    def _results(self, units: Sequence[Unit]) -> list[dict[str, Any]] | None:
        """Return the units' results, after running missing ones; None if some are still missing."""
        missing = [unit for unit in units if not (self.work / unit.name).exists()]
        now = missing if self.left is None else missing[: self.left]
        if self.left is not None:
            self.left -= len(now)
        with ProcessPoolExecutor(self.workers, mp_context=get_context("spawn")) as pool:
            from benchmarks.dense.train import train

            started = {
                pool.submit(train, unit.model, unit.rate, unit.steps, unit.seed, *self.inputs): unit for unit in now
            }
            for future in as_completed(started):
                result = future.result()
                write_atomic(self.work / started[future].name, json.dumps(result, indent=2).encode())
                print(json.dumps(result), flush=True)
        if len(now) < len(missing):
            print(f"{len(missing) - len(now)} runs of this step are left; run the same command again")
            return None
        return [dict(json.loads((self.work / unit.name).read_bytes())) for unit in units]


def best_rate(runs: list[dict[str, Any]]) -> float:
    """Return the rate of the lowest loss. Raises UserError if it is the sweep's edge: widen the sweep."""
    ended = [run for run in runs if math.isfinite(run["nats_per_token"])]
    if not ended:
        raise UserError(f"benchmarks/dense: no rate of {runs[0]['model']} ends in a finite loss: lower RATES.")
    best = min(ended, key=lambda run: run["nats_per_token"])["rate"]
    if best in (min(RATES), max(RATES)):
        model = runs[0]["model"]
        raise UserError(f"benchmarks/dense: the best rate of {model} is the sweep's edge, {best}: widen RATES.")
    return float(best)


def crossing(points: Sequence[tuple[float, float]], level: float) -> float:
    """Return the cost at which `points` (cost, loss), costs rising, fall to `level`: linear in log cost, inf if never.

    A level above the first point's loss was reached before it: then the first cost, an upper bound, is returned.
    """
    if points[0][1] <= level:
        return points[0][0]
    for (cost, loss), (next_cost, next_loss) in pairwise(points):
        if next_loss <= level:
            part = (loss - level) / (loss - next_loss)
            return math.exp(math.log(cost) + part * (math.log(next_cost) - math.log(cost)))
    return math.inf


def summarise(runs: list[dict[str, Any]], swept: list[dict[str, Any]], minutes: float) -> Report:
    """Return medians over seeds of tokens and CPU time to the same seed's dense loss."""
    shares: dict[str, list[float]] = {"tokens": [], "cpu_seconds": []}
    for seed in SEEDS:
        dense = next(run for run in runs if run["model"] == "dense" and run["seed"] == seed)
        sparse = [run for run in runs if run["model"] == "k2" and run["seed"] == seed]
        sparse.sort(key=lambda run: int(run["tokens"]))
        for cost, kept in shares.items():
            curve = [(run[cost], run["bits_per_byte"]) for run in sparse]
            kept.append(crossing(curve, dense["bits_per_byte"]) / dense[cost])
    tokens, seconds = median(shares["tokens"]), median(shares["cpu_seconds"])
    baseline = f"dense GPT + Muon, {minutes:g} CPU minutes"
    rows = [
        Row("tokens to the dense model's bits per byte", tokens, "share", baseline, 1.0,
            f"at most {TOKENS_MUST}", tokens <= TOKENS_MUST),
        Row("CPU time to it", seconds, "share", baseline, 1.0,
            f"at most {TIME_MUST} (goal 0.8)", seconds <= TIME_MUST),
    ]  # fmt: skip
    settings = {"seeds": SEEDS, "by_seed": shares, "runs": runs, "sweep": swept}
    return Report(settings, rows)
