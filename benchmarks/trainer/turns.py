"""Let trainings take turns, each in processes of its own, and compare the times of their steps."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from engine.errors import UserError
from engine.intervals import Interval, bootstrap_ratio

WORKER = Path(__file__).with_name("worker.py")
WARM_UP = 4
"""Steps before the first turn, which are not timed."""


@dataclass(frozen=True)
class Setting:
    """What a training runs as: in a checkout of the repository, with threads in each of so many ranks."""

    checkout: Path
    profile: str
    threads: int
    ranks: int = 1


class Trainee:
    """A training that makes steps when it is told to: `python WORDS` in each rank; its processes end with the context.

    The first rank reads orders from its standard input, one a line, and prints a line of JSON when each is done.
    """

    def __init__(self, setting: Setting, *words: str) -> None:
        self.setting, self.command = setting, [sys.executable, *words]
        self.processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        """Start its processes."""
        s = self.setting
        environment = os.environ | {"PYTHONPATH": str(s.checkout), "OMP_NUM_THREADS": str(s.threads)}
        if s.ranks > 1:
            environment |= {"WORLD_SIZE": str(s.ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        for rank in range(s.ranks):
            own = {"RANK": str(rank)} if s.ranks > 1 else {}
            self.processes.append(
                subprocess.Popen(
                    self.command,
                    cwd=s.checkout,
                    env=environment | own,
                    text=True,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill its processes."""
        for process in self.processes:
            process.kill()
            process.communicate()

    def steps(self, count: int) -> dict[str, float]:
        """Make so many steps; return their `wall` seconds, and the `cpu` seconds of the first rank.

        Raises UserError if the training has ended.
        """
        return dict(self.ask(str(count)))

    def ask(self, order: str) -> Any:
        """Return the reply to an order; UserError if the training has ended."""
        first = self.processes[0]
        assert first.stdin
        assert first.stdout
        with suppress(BrokenPipeError):  # its end is seen below
            print(order, file=first.stdin, flush=True)
        reply = first.stdout.readline()
        if not reply:
            raise UserError(
                f"a training in {self.setting.checkout} ended by itself ({first.wait()}): run "
                f"`PYTHONPATH={self.setting.checkout} {' '.join(self.command)}` there to see why."
            )
        return json.loads(reply)


def pretraining(setting: Setting, inputs: Path, work: Path) -> Trainee:
    """Return a training of the setting's profile on the text of `inputs`."""
    return Trainee(setting, "-P", str(WORKER), str(inputs), setting.profile, str(setting.threads), str(work))


def compare(
    one: Setting, other: Setting, inputs: Path, pairs: int, steps: int, clock: str
) -> tuple[Interval, Mapping[str, float]]:
    """Return the time of `one` as a multiple of the other's, and both times of a step, as `alternated` does."""
    with pretraining(one, inputs, inputs / "one") as first, pretraining(other, inputs, inputs / "other") as second:
        return alternated(first, second, pairs, steps, clock)


def alternated(
    one: Trainee, other: Trainee, pairs: int, steps: int, clock: str
) -> tuple[Interval, Mapping[str, float]]:
    """Return the time of `one` as a multiple of the other's, with its interval, and both times of a step in seconds.

    They take turns of `steps` steps, and who begins a pair alternates. `clock` is `wall` or `cpu`.
    """
    seconds: dict[str, list[float]] = {"one": [], "other": []}
    turns = [("one", one), ("other", other)]
    for _, trainee in turns:
        trainee.steps(WARM_UP)
    for pair in range(pairs):
        for name, trainee in turns if pair % 2 else turns[::-1]:
            seconds[name].append(trainee.steps(steps)[clock] / steps)
    ratio = bootstrap_ratio(seconds["one"], seconds["other"], 0, f"{one.setting} over {other.setting}")
    return ratio, {name: sum(times) / pairs for name, times in seconds.items()}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
