"""Estimate how long a stage will take, by scaling what its past runs took to the present parameters.

A training's time grows with its steps, and with the tokens or responses of a step. A run that was resumed counts for
the steps that it made itself. How the time of other stages grows is not known: their past times are taken as they are.
"""

from math import prod
from statistics import median
from typing import Any

from engine.identity.key import flatten
from engine.identity.records import TIMELESS

SIZES = ("batch_size", "sequence_length", "inner_steps", "prompts", "samples")
"""The parameters whose product the time of a training's step (in rl, of an iteration) is proportional to."""


def estimate(stage: str, good: list[dict[str, Any]], parameters: dict[str, Any]) -> float | None:
    """Return the median of the times that a stage's good runs would have taken with these parameters, in seconds.

    None if the stage never ran: outputs that were adopted, recalled or pulled took no time of its own.
    """
    today = flatten(parameters)
    measured = [run for run in good if run["outcome"] not in TIMELESS]
    return median(float(run["seconds"]) * _growth(stage, run, today) for run in measured) if measured else None


def _growth(stage: str, run: dict[str, Any], today: dict[str, Any]) -> float:
    """Return the work that today's parameters need, as a multiple of a past run's; 1 where that is not known."""
    then = run["parts"]["parameters"]
    before, now = steps(stage, then), steps(stage, today)
    if not before or not now:
        return 1.0
    training = run.get("training") or {}
    share = 1 - int(training.get("resumed_at") or 0) / int(training.get("steps") or before)
    return now * _size(stage, today) / (before * _size(stage, then) * share) if share > 0 else 1.0


def steps(stage: str, flat: dict[str, Any]) -> int:
    """Return a training's steps (in rl, iterations) by its flat parameters; 0 for a stage that does not train."""
    if phases := flat.get(f"{stage}.schedule.phases"):
        return sum(int(phase["length"]) for phase in phases)
    single = flat.get(f"{stage}.steps", flat.get(f"{stage}.iterations"))
    return single if isinstance(single, int) else 0


def _size(stage: str, flat: dict[str, Any]) -> float:
    """Return the size of a step, in a unit of the stage's own."""
    own = [flat.get(f"{stage}.{name}") for name in SIZES]
    own += [sum(value for name, value in flat.items() if name.startswith(f"{stage}.batch.") and isinstance(value, int))]
    return prod(float(value) for value in own if value)
