"""A pretraining that makes steps on demand: for each number read from standard input so many, then prints their time.

It runs as a script in this repository or, to be compared, in that of an earlier commit, so it uses only what both have:
the stage's own `pretrain`, and the journal, which the loop calls at the end of each step.

    python -P worker.py INPUTS PROFILE THREADS WORK
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from engine.model.model import K2Model
from engine.parallel import data
from engine.text.shards import TokenShards
from engine.training import loop
from engine.training.journal import Journal
from nodes.pretrain.schema import Parameters
from nodes.pretrain.train import configuration, pretrain
from pipelines import graph


class Pace:
    """Counts steps, and waits for the next order when those of the last one are made."""

    def __init__(self, first: bool) -> None:
        self.first, self.left = first, 0
        self.started: tuple[float, float] | None = None

    def step(self) -> None:
        """Count a step. Only the first rank takes orders: the others cannot be ahead of it by more than a step."""
        self.left -= 1
        if self.first and self.left <= 0:
            self._wait()

    def _wait(self) -> None:
        if self.started:
            wall, cpu = time.perf_counter() - self.started[0], time.process_time() - self.started[1]
            print(json.dumps({"wall": wall, "cpu": cpu}), flush=True)
        order = sys.stdin.readline()
        if not order:
            sys.exit()
        self.left = int(order)
        self.started = time.perf_counter(), time.process_time()


def lengthened(schedule: dict[str, Any]) -> dict[str, Any]:
    """Return a schedule of 100 times as many steps, so that no benchmark reaches its end; an earlier form is known."""
    longer: dict[str, Any] = {name: value for name, value in schedule.items() if name != "steps"}
    for name in {"warmup", "stable", "decay", "anneal"} & schedule.keys():
        longer[name] = 100 * schedule[name]
    if "phases" in schedule:
        longer["phases"] = [phase | {"length": 100 * phase["length"]} for phase in schedule["phases"]]
    return longer


def main(inputs: Path, profile: str, threads: int, work: Path) -> None:
    """Train a profile's pretraining without checkpoints and validation, in ranks if the environment describes them."""
    if "RANK" in os.environ:
        data.start()
    pace = Pace(data.ranks().first)

    class Paced(Journal):
        def write(self, row: dict[str, Any], tokens: int) -> None:
            super().write(row, tokens)
            pace.step()

    vars(loop)["Journal"] = Paced
    values = graph.parameters(profile)["pretrain"]
    values |= {"threads": threads, "checkpoint_every": 10**9, "schedule": lengthened(values["schedule"])}
    values["validation"] |= {"every": 10**9, "windows": 1}
    p = Parameters.model_validate(values)
    shards = TokenShards.open(inputs / "shards")
    pretrain(K2Model(configuration(p, shards.vocab_size), p.seed), shards, p, work)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
