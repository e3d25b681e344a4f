"""Run a study from its registration to its results: sweeps, then arms, then baselines."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.artifacts.files import canonical_json, read_object, write_atomic
from engine.text.shards import TokenShards
from studies.execute import WORKERS, Bench, Result, execute
from studies.registration import Registration
from studies.schema import Study
from studies.train import NATURAL
from studies.units import arm_units, mean_loss, sweep_units, winner

BASELINES = {1: "unigram", 2: "bigram", 3: "Kneser–Ney 3-gram"}


@dataclass(frozen=True)
class Done:
    """The outcome of a study's runs: the arms' results, each sweep's table and winner, and the n-gram losses."""

    runs: list[Result]
    sweeps: dict[str, Any]
    baselines: dict[str, float]


def run_study(
    registration: Registration,
    shards: Path,
    work: Path,
    digests: tuple[str, str],
    seeds: Sequence[int] | None = None,
    workers: int = WORKERS,
) -> Done:
    """Run the rest of a study in `work`. `digests` are of code and data; `seeds` replace the registered ones.

    Raises UserError where shards or settings are wrong, or every point of a sweep failed.
    """
    study, opened = registration.study, TokenShards.open(shards)
    stamp = {"digest": registration.digest, "commit": registration.commit}
    bench = Bench(shards, work, *digests, stamp)
    other = tuple(seeds) if seeds else None
    sweeps = {name: _sweep(bench, study, name, other, workers) for name in study.sweeps}
    winners = {name: sweep["winner"] for name, sweep in sweeps.items()}
    units = arm_units(study, winners, opened.vocab_size, other)
    runs = execute(bench, units, f"study {registration.name}", workers)
    return Done(runs, sweeps, _baselines(bench, study, opened))


def _sweep(bench: Bench, study: Study, name: str, seeds: tuple[int, ...] | None, workers: int) -> dict[str, Any]:
    """Return a sweep's points with their mean losses, the winner, and whether its rate lies inside the grid."""
    by_point = sweep_units(study, name, seeds)
    execute(bench, [unit for units in by_point.values() for unit in units], f"sweep {name}", workers)
    losses: dict[tuple[float, ...], list[float | None]] = {
        point: [(bench.result(unit) or {}).get("figures", {}).get("loss") for unit in units]
        for point, units in by_point.items()
    }
    best, inside = winner(losses, study.sweeps[name])
    points = [{"at": list(at), "loss": mean_loss(point_losses)} for at, point_losses in losses.items()]
    return {"settings": list(study.sweeps[name].grid), "points": points, "winner": best, "inside": inside}


def _baselines(bench: Bench, study: Study, shards: TokenShards) -> dict[str, float]:
    """Return n-gram losses on the arms' evaluation windows, counted on all training text; kept in a file."""
    from engine.text.ngram import baselines

    s = study.settings
    path = bench.work.parent / f"baselines-{bench.data}-{s.sequence_length}-{s.final_windows}.json"
    if not path.is_file():
        windows = shards.eval_windows("test", s.sequence_length, NATURAL, s.final_windows)
        scores = baselines(shards.split("train").runs(), windows.tokens, tuple(BASELINES), shards.vocab_size)
        losses = {BASELINES[order]: score.nats / score.tokens for order, score in scores.items()}
        write_atomic(path, canonical_json(losses))
    return read_object(path)
