"""Pipeline schedules as data: what each rank of a pipeline does, in order. Pure arithmetic, without torch.

A step's micro-batches go forward through the stages and back. Stage s is on the rank s mod pp. `F` is a forward, `B` a
whole backward; a split backward is `I`, the gradient by the input, which the stage before waits for, and `W`, the
gradient by the weights, for which nobody waits.

- `interleaved_1f1b` [arXiv 2104.04473]: a rank first runs enough forwards to fill the pipeline (the warm-up), then one
  forward and one backward in turn, then the backwards that remain.
- `interleaved_1f1b_warmup`, K2's [k2-facts 5]: one forward more in every rank's warm-up, so that the forward and the
  backward of a turn never wait for each other and the all-to-alls of one hide behind the products of the other; and W
  split from the backward, so that it hides the gradient's way to the stage before.
- `zero_bubble` [arXiv 2401.10241, ZB-H1]: half of the warm-up, and W delayed until the rank would stand idle.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, Literal, NamedTuple, get_args

Schedule = Literal["interleaved_1f1b", "interleaved_1f1b_warmup", "zero_bubble"]
SCHEDULES: Final[tuple[Schedule, ...]] = get_args(Schedule)


class Action(NamedTuple):
    """One action of a rank: a compute action (F, B, I, W) or a message (SEND_F, RECV_F, SEND_B, RECV_B).

    Its text is torch's: stage, kind, micro-batch.

    >>> str(Action(3, "SEND_F", 0))
    '3SEND_F0'
    """

    stage: int
    kind: str
    micro: int

    def __str__(self) -> str:
        return f"{self.stage}{self.kind}{self.micro}"


Table = list[list[Action]]
"""The actions of each rank, in order."""


def rounds(micro_batches: int, pp: int) -> list[range]:
    """Return the micro-batches in rounds of pp or somewhat more; a rank does a round at each of its stages in turn.

    >>> rounds(7, 3), rounds(2, 4)
    ([range(0, 4), range(4, 7)], [range(0, 2)])
    """
    count = max(1, micro_batches // pp)
    ends = [-(-micro_batches * number // count) for number in range(count + 1)]
    return [range(first, end) for first, end in pairwise(ends)]


def warmup(schedule: Schedule, pp: int, vpp: int, micro_batches: int, rank: int) -> int:
    """Return how many forwards a rank runs before its first turn of a forward and a backward."""
    each_hop = 1 if schedule == "zero_bubble" else 2
    extra = schedule == "interleaved_1f1b_warmup"
    needed = (vpp - 1) * len(rounds(micro_batches, pp)[0]) + each_hop * (pp - 1 - rank) + extra
    return min(needed, vpp * micro_batches)


def in_flight(schedule: Schedule, pp: int, vpp: int, rank: int) -> int:
    """Return the most forwards that a rank has run and not yet begun to run back, of rounds of pp micro-batches.

    >>> in_flight("interleaved_1f1b", 4, 1, 0), in_flight("interleaved_1f1b_warmup", 16, 2, 0)
    (7, 48)
    """
    return warmup(schedule, pp, vpp, 4 * pp, rank) + 1


def table(schedule: Schedule, pp: int, vpp: int, micro_batches: int) -> Table:
    """Return the compute actions of each rank for any number of micro-batches, with vpp stages a rank.

    >>> [" ".join(map(str, actions)) for actions in table("interleaved_1f1b", 2, 1, 2)]
    ['0F0 0F1 0B0 0B1', '1F0 1B0 1F1 1B1']
    """
    return [list(_rank(schedule, pp, vpp, micro_batches, rank)) for rank in range(pp)]


def _rank(schedule: Schedule, pp: int, vpp: int, micro_batches: int, rank: int) -> Iterator[Action]:
    own = range(rank, pp * vpp, pp)
    turns = rounds(micro_batches, pp)
    forwards = [(stage, micro) for turn in turns for stage in own for micro in turn]
    backwards = [(stage, micro) for turn in turns for stage in reversed(own) for micro in turn]
    first = warmup(schedule, pp, vpp, micro_batches, rank)
    late = {"interleaved_1f1b": None, "interleaved_1f1b_warmup": 0, "zero_bubble": rank}[schedule]
    yield from (Action(stage, "F", micro) for stage, micro in forwards[:first])
    for number, (stage, micro) in enumerate(backwards):
        for forward in forwards[first + number : first + number + 1]:
            yield Action(forward[0], "F", forward[1])
        yield Action(stage, "B" if late is None else "I", micro)
        if late is not None and number >= late:
            yield Action(backwards[number - late][0], "W", backwards[number - late][1])
    if late:
        yield from (Action(stage, "W", micro) for stage, micro in backwards[-late:])


def forward_table(pp: int, vpp: int, micro_batches: int) -> Table:
    """Return the forwards alone, in the order that all schedules have them: for reading without gradients."""
    return [
        [action for action in actions if action.kind == "F"]
        for actions in table("interleaved_1f1b", pp, vpp, micro_batches)
    ]


def messages(action: Action, stages: int) -> tuple[Action, Action] | None:
    """Return what a compute action of a pipeline of so many stages sends, and the receipt at the stage beside it."""
    if action.kind == "F" and action.stage < stages - 1:
        return action._replace(kind="SEND_F"), Action(action.stage + 1, "RECV_F", action.micro)
    if action.kind in {"B", "I"} and action.stage > 0:
        return action._replace(kind="SEND_B"), Action(action.stage - 1, "RECV_B", action.micro)
    return None


def inputs(action: Action, stages: int) -> list[Action]:
    """Return which compute actions must have ended before one can start; of a backward, either kind (B or I) will do.

    >>> inputs(Action(1, "W", 0), 4), inputs(Action(3, "I", 0), 4)
    ([Action(stage=1, kind='I', micro=0)], [Action(stage=3, kind='F', micro=0)])
    """
    stage, kind, micro = action
    if kind == "F":
        return [Action(stage - 1, "F", micro)] if stage else []
    if kind == "W":
        return [Action(stage, "I", micro)]
    return [Action(stage, "F", micro), *([Action(stage + 1, kind, micro)] if stage < stages - 1 else [])]


def with_messages(actions: Table, in_time: Sequence[Action]) -> Table:
    """Return a table of compute actions with their messages; `in_time` has the same actions as they end, of all ranks.

    A message is sent where its action ends, and is received where it then is on the other rank. So the messages between
    two ranks are sent and received in one order, and no order of waiting for each other can be circular.
    """
    pp, stages = len(actions), 1 + max(action.stage for of in actions for action in of)
    whole: Table = [[] for _ in actions]
    for action in in_time:
        whole[action.stage % pp].append(action)
        for message in messages(action, stages) or ():
            whole[message.stage % pp].append(message)
    return whole
