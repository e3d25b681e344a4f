"""Steps of each layout on gloo ranks of one thread: seconds beside one process, bytes beside the planner."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import Row
from benchmarks.scale.cases import CASES, LAYERS, ONE, PARTS, Case, planned, seconds_of_products
from benchmarks.scale.steps import Task, task
from benchmarks.scale.worker import COUNT
from benchmarks.trainer.turns import Setting, Trainee, alternated
from engine.parallel.traffic import COUNTS, GATES, ROWS
from engine.scale.memory import memory
from engine.scale.training import Training

ROOT = Path(__file__).parents[2]
TO_THE_BYTE = 0.5
KEPT_WITHIN = 0.05
GIVEN = (*ROWS, *GATES, COUNTS)
"""Of these all-to-alls the bytes given are known before; those that cross depend on the experts that tokens choose."""


def rows(arguments: argparse.Namespace) -> list[Row]:
    """Return the rows of all cases."""
    given = task(arguments.profile, layers=LAYERS, parts=PARTS)
    with worker(ONE, arguments.profile) as one:
        return [row for case in CASES for row in case_rows(case, given, one, arguments)]


def case_rows(case: Case, given: Task, one: Trainee, arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield a case's rows: seconds beside those of `one` process, then messages by kind, then what the ranks hold."""
    p = given.settings
    plan, alone = (planned(each, given.config, p.batch_size, p.sequence_length) for each in (case, ONE))
    with worker(case, arguments.profile) as own:
        if case.timed:
            ratio, seconds = alternated(own, one, arguments.pairs, arguments.steps, "wall")
            low, high = ratio.ends
            expected = seconds_of_products(plan) / seconds_of_products(alone)
            what = f"{case.name}: a step, ratio {ratio.value:.2f} [{low:.2f}, {high:.2f}], {expected:.2f} of products"
            what += f" ({arguments.note})" if arguments.note else ""
            yield Row(what, seconds["one"], "s", "1 process of 1 thread", seconds["other"])
        else:
            own.steps(1)
        ranks = own.ask(COUNT)
    yield from messages(case, ranks, plan)
    yield from held(case, ranks, plan)


def worker(case: Case, profile: str) -> Trainee:
    """Return the ranks of a case, not yet started."""
    setting = Setting(ROOT, profile, threads=1, ranks=case.ranks)
    return Trainee(setting, "-m", "benchmarks.scale.worker", profile, case.words)


def messages(case: Case, ranks: Sequence[dict[str, Any]], plan: Training) -> Iterator[Row]:
    """Yield the bytes of a rank and step by kind of message, beside the planner's."""
    expected: dict[str, float] = {}
    for message in (message for of in plan.messages for message in of):
        kind = message.name.partition(",")[0]
        expected[kind] = expected.get(kind, 0.0) + (message.given if kind in GIVEN else message.bytes)
    for kind in sorted(expected.keys() | {kind for rank in ranks for kind in rank["crossed"]}):
        measure = "given" if kind in GIVEN else "crossed"
        total = sum(rank[measure].get(kind, 0) for rank in ranks)
        yield exact(f"{case.name}: {kind}, {measure}", total, expected.get(kind, 0.0), len(ranks))
    for kind in ROWS if plan.grid.ep > 1 else ():
        total = sum(rank["crossed"][kind] for rank in ranks)
        even = sum(message.bytes for of in plan.messages for message in of if message.name == kind)
        base = "planned for even experts"
        yield Row(f"{case.name}: {kind}, crossed", total / len(ranks), "B a rank and step", base, even / len(ranks))


def held(case: Case, ranks: Sequence[dict[str, Any]], plan: Training) -> Iterator[Row]:
    """Yield the bytes of a rank that stay from step to step, and those that wait for backwards when most do."""
    expected = memory(plan)
    for kind in ("weights", "gradients", "optimizer"):
        total = sum(rank[kind] for rank in ranks)
        yield exact(f"{case.name}: {kind}", total, sum(getattr(one, kind) for one in expected), len(ranks), "B a rank")
    kept, most = (
        sum(of) / len(ranks) for of in ([rank["kept"] for rank in ranks], [one.activations for one in expected])
    )
    near, target = abs(kept / most - 1) <= KEPT_WITHIN, f"within {KEPT_WITHIN:.0%}"
    yield Row(f"{case.name}: waiting for backwards", kept, "B a rank", "planned", most, target, near)
    if plan.grid.pp > 1:
        moving = sum(rank["messages"] for rank in ranks) / len(ranks)
        yield Row(f"{case.name}: messages that gloo holds", moving, "B a rank", "waiting for backwards", kept)


def exact(case: str, total: float, expected: float, ranks: int, unit: str = "B a rank and step") -> Row:
    """Return a row of bytes, on average over the ranks, whose sum must be the planner's."""
    same = abs(total - expected) < TO_THE_BYTE
    return Row(case, total / ranks, unit, "planned", expected / ranks, "equal", same)
