"""Which policy is kept: candidates are judged on a tuning split, neither trained on nor reported.

Reinforcement learning at this size can collapse late; taking the last policy would report the collapse, taking the
best on the reported split would flatter the result.
"""

import json
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from statistics import mean

from engine.artifacts.files import read_object, write_atomic
from engine.errors import UserError
from engine.model.checkpoint import load_checkpoint, save_checkpoint
from engine.model.model import K2Model
from engine.parallel import data
from nodes.rl.families import Family
from nodes.rl.schema import Parameters


class Candidates:
    """Policies judged so far, each in a directory of its own: the weights, then the verdict.

    The first of several ranks judges, in its `directory`; the others, which hold the same weights, wait and read.
    """

    def __init__(self, model: K2Model, families: Sequence[Family], p: Parameters, directory: Path) -> None:
        self.model, self.families, self.p, self.directory = model, families, p, directory

    def consider(self, iteration: int, last: bool = False) -> None:
        """Judge the policy before `iteration` if its turn has come; a verdict from before a kill stands."""
        if not (last or iteration % self.p.select_every == 0):
            return
        verdict = self.directory / f"{iteration:06d}" / "verdict.json"
        if data.ranks().first and not verdict.exists():
            self._judge(iteration, verdict)
        data.from_first(None)

    def _judge(self, iteration: int, verdict: Path) -> None:
        rates = {family.name: mean(family.rates(self.model, "tuning")) for family in self.families}
        save_checkpoint(verdict.parent, self.model, {})
        judged = {"iteration": iteration, "pass_rate": mean(rates.values()), "by_family": rates}
        write_atomic(verdict, json.dumps(judged).encode())

    def judged(self) -> list[tuple[int, float]]:
        """(iteration, pass rate on the tuning split, the mean of the families') of every candidate, in order."""
        told = [read_object(path) for path in sorted(self.directory.glob("*/verdict.json"))]
        return [(int(verdict["iteration"]), float(verdict["pass_rate"])) for verdict in told]

    def best(self) -> tuple[int, K2Model]:
        """The best candidate, the earliest of equals, and its weights.

        Raises UserError where a verdict is not finite, so that no order holds among the candidates.
        """
        judged = self.judged()
        for iteration, rate in judged:
            if not isfinite(rate):
                raise UserError(
                    f"{self.directory / f'{iteration:06d}' / 'verdict.json'}: pass_rate is {rate}; delete the file, "
                    "and the same command judges that policy anew"
                )
        iteration, _ = max(judged, key=lambda verdict: (verdict[1], -verdict[0]))
        return iteration, load_checkpoint(self.directory / f"{iteration:06d}")
