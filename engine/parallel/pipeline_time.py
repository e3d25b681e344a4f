"""When each action of a pipeline's table starts and ends, how long ranks stand idle, and what can hide behind what.

Pure arithmetic, without torch. A time may have any unit and type that adds: whole units for proofs, seconds for plans.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from engine.parallel.pipeline_table import Action, Schedule, Table, inputs, table, warmup, with_messages

UNITS: Mapping[str, float] = {"F": 1, "B": 2, "I": 1, "W": 1}
"""The time of each compute action in units of a forward: a backward has twice the products."""


@dataclass(frozen=True)
class Timed:
    """An action with its start and end."""

    action: Action
    start: float
    end: float


def unit(action: Action) -> float:
    """Return the time of an action in units of a forward."""
    return UNITS[action.kind]


def timeline(
    actions: Table, seconds: Callable[[Action], float] = unit, hop: float = 0, paired: frozenset[Action] = frozenset()
) -> list[list[Timed]]:
    """Return each rank's actions with their times: an action starts once the one before it and its inputs have ended.

    Args:
        actions: the compute actions of each rank.
        seconds: the time of an action; stages may differ.
        hop: the time of a message from one stage to the next.
        paired: forwards that run at once with the backward after them (`pairs`): as one block that starts when both
            have their inputs, takes the sum of their times, and gives both results at its end.

    Raises ValueError naming an action of each rank that waits for ever, if the table is a deadlock.

    """
    pp, stages = len(actions), 1 + max(action.stage for of in actions for action in of)
    blocks = [_blocks(of, paired) for of in actions]
    ends: dict[Action, float] = {}
    done: list[list[Timed]] = [[] for _ in actions]
    places = [0] * pp
    moved = True
    while moved:
        moved = False
        for rank, of in enumerate(blocks):
            while places[rank] < len(of):
                block = of[places[rank]]
                first = block[:2]  # W of a block comes after its own I
                needed = [each for action in first for each in inputs(action, stages)]
                if any(each not in ends for each in needed):
                    break
                arrived = [ends[each] + (hop if each.stage % pp != rank else 0) for each in needed]
                start = max([done[rank][-1].end if done[rank] else 0, *arrived])
                end = start + sum(map(seconds, block))
                done[rank] += [Timed(action, start, end) for action in block]
                ends |= dict.fromkeys(block, end)
                places[rank] += 1
                moved = True
    if stuck := [of[place][0] for of, place in zip(blocks, places, strict=True) if place < len(of)]:
        raise ValueError(f"this table of a pipeline is a deadlock: {', '.join(map(str, stuck))} wait for ever")
    return done


def _blocks(actions: list[Action], paired: frozenset[Action]) -> list[list[Action]]:
    """Return a rank's actions, each paired forward in one block with the backward after it, W included."""
    blocks: list[list[Action]] = []
    for action in actions:
        last = blocks[-1] if blocks else []
        own_weights = len(last) == 2 and action == last[-1]._replace(kind="W")
        if (len(last) == 1 and last[0] in paired and action.kind in {"B", "I"}) or own_weights:
            last.append(action)
        else:
            blocks.append([action])
    return blocks


def idle(times: list[list[Timed]]) -> float:
    """Return the bubble: the longest time that a rank stands idle before the last one ends, over the time it works.

    >>> idle(timeline(table("interleaved_1f1b", 4, 2, 8))) == 3 / (2 * 8)
    True
    """
    end = max(timed.end for of in times for timed in of)
    shares = []
    for of in times:
        blocks = {(timed.start, timed.end) for timed in of}
        works = sum(end - start for start, end in blocks)
        shares.append((end - works) / works)
    return max(shares)


def pairs(schedule: Schedule, pp: int, vpp: int, micro_batches: int) -> frozenset[Action]:
    """Return the forwards that can run at once with the backward after them: neither depends on the other.

    While both run, the all-to-alls of one hide behind the products of the other. K2's table has one after each rank's
    warm-up, up to its last forward; the others have none, because their last rank's backward waits for the forward
    before it, and the ranks before wait for that.
    """
    if schedule != "interleaved_1f1b_warmup":
        return frozenset()
    paired = set()
    for rank, actions in enumerate(table(schedule, pp, vpp, micro_batches)):
        forwards = [action for action in actions if action.kind == "F"]
        paired.update(forwards[warmup(schedule, pp, vpp, micro_batches, rank) :])
    return frozenset(paired)


def window(schedule: Schedule, pp: int, vpp: int, micro_batches: int) -> float:
    """Return the share of all forwards that run at once with a backward, on the rank that has the fewest."""
    paired = pairs(schedule, pp, vpp, micro_batches)
    return min(sum(action.stage % pp == rank for action in paired) for rank in range(pp)) / (vpp * micro_batches)


def complete(actions: Table) -> Table:
    """Return a table of compute actions with their messages (`with_messages`). Raises ValueError for a deadlock."""
    times = [(timed.end, rank, place, timed.action)
             for rank, of in enumerate(timeline(actions)) for place, timed in enumerate(of)]  # fmt: skip
    return with_messages(actions, [action for *_, action in sorted(times)])
