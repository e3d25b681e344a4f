"""Choose the policy that is kept by a tuning split, which is neither trained on nor reported.

Reinforcement learning at this size can collapse late; keeping the last policy would report the collapse, and choosing
the best on the reported split would flatter the result.
"""

import json
import shutil
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from statistics import mean

from engine.artifacts.files import read_object, write_atomic
from engine.errors import UserError
from engine.model.checkpoint import load_checkpoint
from engine.model.model import K2Model
from engine.parallel import data
from engine.rollout.shared import sharing
from engine.training.handoff import save_whole
from nodes.rl.rewards import Family
from nodes.rl.schema import Parameters


class Candidates:
    """The policies judged so far, each in its own directory: the weights, then the verdict and how it was judged.

    Several ranks, with the same weights, judge together; the first one's `directory` is used, where only it writes.
    """

    def __init__(self, model: K2Model, families: Sequence[Family], p: Parameters, directory: Path) -> None:
        self.model, self.families, self.p, self.directory = model, families, p, directory
        self.judging = {family.name: family.judging() for family in families}

    def forget_after(self, iteration: int) -> None:
        """Remove the candidates of later iterations: a lost attempt, or work that was adopted, may have left them.

        They may be another policy's, and those that are due will be judged again.
        """
        if data.ranks().first:
            for path in self.directory.glob("[0-9]*"):
                if int(path.name) > iteration:
                    shutil.rmtree(path)
        data.from_first(None)

    def judge_again(self) -> None:
        """Judge the candidates whose verdicts came about otherwise than today's would, as those of adopted work may.

        Pass rates on other prompts, or of other draws, are not to be compared.
        """
        for iteration in data.from_first(self._outdated() if data.ranks().first else []):
            self._judge(iteration, load_checkpoint(self._verdict(iteration).parent))

    def consider(self, iteration: int, last: bool = False) -> None:
        """Judge the policy before `iteration` if it is due, unless a verdict from before a kill exists."""
        if not (last or iteration % self.p.select_every == 0):
            return
        if data.from_first(not self._verdict(iteration).exists()):
            if self.model.part is not None or data.ranks().first:
                save_whole(self._verdict(iteration).parent, self.model, {})
            self._judge(iteration, self.model)

    def _verdict(self, iteration: int) -> Path:
        return self.directory / f"{iteration:06d}" / "verdict.json"

    def _outdated(self) -> list[int]:
        verdicts = sorted(self.directory.glob("*/verdict.json"))
        return [int(path.parent.name) for path in verdicts if read_object(path).get("judging") != self.judging]

    def _judge(self, iteration: int, model: K2Model) -> None:
        rates = {family.name: mean(family.rates(model, "tuning", sharing())) for family in self.families}
        judged = {"iteration": iteration, "pass_rate": mean(rates.values()), "by_family": rates}
        if data.ranks().first:
            write_atomic(self._verdict(iteration), json.dumps({**judged, "judging": self.judging}).encode())
        data.from_first(None)  # so that no rank reads it before it is there

    def judged(self) -> list[tuple[int, float]]:
        """Return (iteration, pass rate on the tuning split, the families' mean) of every candidate, in order."""
        verdicts = [read_object(path) for path in sorted(self.directory.glob("*/verdict.json"))]
        return [(int(verdict["iteration"]), float(verdict["pass_rate"])) for verdict in verdicts]

    def best(self) -> tuple[int, K2Model]:
        """Return the best candidate's iteration and weights; the earliest of equals.

        Raises UserError if a verdict is not finite, since the candidates then have no order.
        """
        judged = self.judged()
        for iteration, rate in judged:
            if not isfinite(rate):
                raise UserError(
                    f"{self.directory / f'{iteration:06d}' / 'verdict.json'}: pass_rate is {rate}; delete the file, "
                    "and run the same command, which judges that policy again"
                )
        iteration, _ = max(judged, key=lambda verdict: (verdict[1], -verdict[0]))
        return iteration, load_checkpoint(self.directory / f"{iteration:06d}")
