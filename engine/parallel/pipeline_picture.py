"""A pipeline's schedule drawn as text, for docs/cluster.md: `python -m engine.parallel.pipeline_picture PP VPP COUNT`.

A line is a rank, a column the time of a forward. A digit is a forward of that micro-batch, a letter its backward (a is
that of 0) or, where it is split, the gradient by the input; `=` is a gradient by the weights, a dot is idle.
"""

import sys
from collections.abc import Sequence

from engine.parallel.pipeline_table import SCHEDULES, Schedule, table
from engine.parallel.pipeline_time import Timed, timeline


def picture(schedule: Schedule, pp: int, vpp: int, micro_batches: int) -> str:
    """Return the picture of a schedule, a line for each rank; micro-batches are numbered modulo 10."""
    times = timeline(table(schedule, pp, vpp, micro_batches))
    width = int(max(timed.end for of in times for timed in of))
    return "\n".join(f"rank {rank}  {_line(of, width)}" for rank, of in enumerate(times))


def _line(times: Sequence[Timed], width: int) -> str:
    line = ["."] * width
    for timed in times:
        kind, number = timed.action.kind, timed.action.micro % 10
        mark = str(number) if kind == "F" else "=" if kind == "W" else "abcdefghij"[number]
        for column in range(int(timed.start), int(timed.end)):
            line[column] = mark
    return "".join(line)


def main(arguments: Sequence[str]) -> str:
    """Return the pictures of all schedules; `arguments` are the numbers of ranks, stages a rank and micro-batches."""
    pp, vpp, micro_batches = map(int, arguments)
    return "\n\n".join(f"{schedule}\n{picture(schedule, pp, vpp, micro_batches)}" for schedule in SCHEDULES)


if __name__ == "__main__":
    sys.stdout.write(main(sys.argv[1:]) + "\n")
