"""The rewards: families of prompts, each with a verifier. There are sums, and tasks of the tool world.

Each family has separate prompts for training, for choosing the checkpoint and for the reported number. To add a reward:
write a class that follows `Family`, and have `families_of` return it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import polars as pl

from engine.artifacts.files import canonical_json, digest_bytes
from engine.errors import UserError
from engine.keyed import generator, key
from engine.model.config import K2Config
from engine.model.model import K2Model
from engine.parallel.data import Ranks
from engine.rollout.episodes import Decoding, Episode, play
from engine.rollout.generate import Completion
from engine.rollout.passrate import pass_rates, require_room, sample_responses
from engine.text.chat import render
from engine.text.tokenizer import K2Tokenizer
from engine.toolworld.tasks import Task
from nodes.rl.objective import temperature_at
from nodes.rl.schema import Parameters

Held = Literal["tuning", "evaluation"]


@dataclass(frozen=True)
class SampledResponse:
    """A sampled and judged response: its turns as (prompt's ids, completion), and the columns of the table."""

    turns: tuple[tuple[list[int], Completion], ...]
    score: float
    truncated: bool
    prompt: str
    text: str
    answer: str


class Family(Protocol):
    """Prompts with a verifier; each prompt gets `samples` responses, and `weight` scales the family's objective."""

    name: str
    samples: int
    weight: float

    def temperature(self, iteration: int) -> float:
        """Return the sampling temperature of an iteration's responses."""

    def draw(self, model: K2Model, iteration: int, temperature: float, ranks: Ranks) -> list[SampledResponse]:
        """Return the responses of an iteration, `samples` in a row for each prompt, which `ranks` draw together."""

    def rates(self, model: K2Model, held: Held, ranks: Ranks) -> list[float]:
        """Return the pass rate at temperature 1 of each prompt of a split that is not trained on.

        `ranks` draw the responses together.
        """

    def judging(self) -> dict[str, Any]:
        """Return what the pass rates on the split `tuning` depend on besides the model; equal if these are the same."""


class Sums:
    """reasoning-gym's chain_sum, one turn per response."""

    name = "sums"
    weight = 1.0

    def __init__(self, tokenizer: K2Tokenizer, config: K2Config, p: Parameters) -> None:
        self.tokenizer, self.p, self.samples = tokenizer, p, p.samples
        self.prompts, tuning, evaluation = p.prompt_items()
        self.held = {
            "tuning": (tuning, p.tuning_samples, key(p.seed, "rl tuning")),
            "evaluation": (evaluation, p.evaluation_samples, key(p.seed, "rl evaluation")),
        }
        for split_items in (self.prompts, tuning, evaluation):
            require_room(config, tokenizer, split_items, p.max_new_tokens, "rl.max_new_tokens")

    def temperature(self, iteration: int) -> float:
        """Return a temperature that decays from exploring to the one at which rewards are measured."""
        return temperature_at(iteration, self.p.iterations, self.p.temperature_start, self.p.temperature_end)

    def draw(self, model: K2Model, iteration: int, temperature: float, ranks: Ranks) -> list[SampledResponse]:
        """Return the responses of an iteration; no prompt is used twice in a run."""
        responses = sample_responses(
            model,
            self.tokenizer,
            self.prompts[iteration * self.p.prompts : (iteration + 1) * self.p.prompts],
            samples=self.samples,
            temperature=temperature,
            max_new_tokens=self.p.max_new_tokens,
            seed=key(self.p.seed, "rollout", iteration),
            ranks=ranks,
        )
        return [
            SampledResponse(
                ((r.prompt_ids, r.completion),), r.score, r.completion.truncated, r.item.prompt, r.text, r.item.answer
            )
            for r in responses
        ]

    def rates(self, model: K2Model, held: Held, ranks: Ranks) -> list[float]:
        """Return the pass rate of each sum of the split."""
        split_items, samples, seed = self.held[held]
        return pass_rates(
            model, self.tokenizer, split_items, samples=samples, max_new_tokens=self.p.max_new_tokens, seed=seed,
            ranks=ranks,
        )  # fmt: skip

    def judging(self) -> dict[str, Any]:
        """Return the sums of the split, and how responses to them are drawn."""
        tuning, samples, seed = self.held["tuning"]
        prompts = _digest([[item.prompt, item.answer] for item in tuning])
        return {"prompts": prompts, "samples": samples, "max_new_tokens": self.p.max_new_tokens, "seed": seed}


class Tools:
    """Tasks of the tool world, one whole episode per response; the reward is the rubric's verdict."""

    name = "tools"

    def __init__(self, tokenizer: K2Tokenizer, tasks: pl.LazyFrame, p: Parameters) -> None:
        self.tokenizer, self.seed = tokenizer, p.seed
        self.settings = p.tools
        self.samples, self.weight = p.tools.samples, p.tools.weight
        self.tasks = _tasks(tasks, "rl", p.tools.tasks)
        self.held = {
            "tuning": (_tasks(tasks, "validation", p.tools.tuning_tasks), p.tools.tuning_samples),
            "evaluation": (_tasks(tasks, "test", p.tools.evaluation_tasks), p.tools.evaluation_samples),
        }

    def temperature(self, iteration: int) -> float:
        """Return a constant temperature, since one wrong token among forty can spoil an episode."""
        return self.settings.temperature

    def draw(self, model: K2Model, iteration: int, temperature: float, ranks: Ranks) -> list[SampledResponse]:
        """Return the responses of an iteration; tasks are used in epochs, each in its own order."""
        size = self.settings.tasks
        chosen = [self._at(place) for place in range(iteration * size, (iteration + 1) * size)]
        repeated = [task for task in chosen for _ in range(self.samples)]
        seed = key(self.seed, "tool rollout", iteration)
        return [_response_of(episode) for episode in self._play(model, repeated, temperature, seed, ranks)]

    def rates(self, model: K2Model, held: Held, ranks: Ranks) -> list[float]:
        """Return the success rate of each task of the split."""
        tasks, samples = self.held[held]
        repeated = [task for task in tasks for _ in range(samples)]
        episodes = self._play(model, repeated, 1.0, key(self.seed, f"rl {held} of tools"), ranks)
        passed = [float(episode.verdict.passed) for episode in episodes]
        return [sum(passed[at : at + samples]) / samples for at in range(0, len(passed), samples)]

    def judging(self) -> dict[str, Any]:
        """Return the tasks of the split, and how they are played."""
        tasks, samples = self.held["tuning"]
        tokens, played = self.settings.max_new_tokens, _digest([task.to_row() for task in tasks])
        return {"prompts": played, "samples": samples, "max_new_tokens": tokens, "seed": self.seed}

    def _at(self, place: int) -> Task:
        epoch, index = divmod(place, len(self.tasks))
        order = generator(self.seed, "tool tasks", epoch).permutation(len(self.tasks))
        return self.tasks[int(order[index])]

    def _play(
        self, model: K2Model, tasks: Sequence[Task], temperature: float, seed: int, ranks: Ranks
    ) -> list[Episode]:
        how = Decoding(self.settings.max_new_tokens, temperature, ranks=ranks)
        return play(model, self.tokenizer, tasks, how, seed, users_seed=self.seed)


def _digest(prompts: Sequence[Any]) -> str:
    return digest_bytes(canonical_json(prompts))


def _tasks(table: pl.LazyFrame, split: str, at_least: int) -> list[Task]:
    """Return the tasks of a split in the order of their ids: all of `rl`, of other splits the first `at_least`."""
    chosen = table.filter(pl.col("split") == split).sort("id")
    rows = (chosen if split == "rl" else chosen.head(at_least)).collect().to_dicts()
    if len(rows) < at_least:
        raise UserError(
            f"parameters/rl.yml: rl.tools asks for {at_least} tasks of the split {split!r}, but the tasks table has "
            f"{len(rows)}: make more in tooluse (tooluse.tasks, tooluse.split), or lower rl.tools."
        )
    return [Task.from_row(row) for row in rows]


def _response_of(episode: Episode) -> SampledResponse:
    turns = tuple((turn.prompt_ids, turn.completion) for turn in episode.turns if turn.completion.tokens)
    cut = any(turn.completion.truncated for turn in episode.turns)
    return SampledResponse(
        turns=turns,
        score=float(episode.verdict.passed),
        truncated=cut,
        prompt=episode.task.instruction,
        text=render(episode.messages[1:]),
        answer="; ".join(goal.criterion for goal in episode.task.goals),
    )


def families_of(tokenizer: K2Tokenizer, config: K2Config, tasks: pl.LazyFrame, p: Parameters) -> list[Family]:
    """Return the families that the parameters ask for; the sums are always among them."""
    return [Sums(tokenizer, config, p), *([Tools(tokenizer, tasks, p)] if p.tools.on else [])]
