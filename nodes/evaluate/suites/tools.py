"""Tool-use episodes on held-out tasks of the tool world: are calls well-formed and valid, is the user served.

Each checkpoint plays the same tasks with the same users three times: sampled at the temperature at which reinforcement
learning is rewarded, greedily, and greedily with the enforcer, which allows only legal calls. The score of uniform
legal calls is given as well, so that the ease of a small world is not mistaken for a skill.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

import polars as pl

from engine.errors import UserError
from engine.intervals import wilson
from engine.keyed import key
from engine.model.model import K2Model
from engine.rollout.episodes import Decoding, Episode, play
from engine.text.tokenizer import K2Tokenizer
from engine.toolworld.episode import run_episode
from engine.toolworld.messages import calls_of
from engine.toolworld.specs import load_tools
from engine.toolworld.tasks import Task
from engine.toolworld.uniform import UniformPolicy
from engine.toolworld.validate import validate_call
from nodes.evaluate.results import Row, SuiteResult
from nodes.evaluate.schema import Parameters
from nodes.evaluate.suites.material import Material

TITLE: Final = "Tool use"
ABOUT: Final = (
    "Tasks of the tool world that no training stage has seen, played to the end against its simulators and judged by "
    "their rubric: the state of the world, the calls, and what the user was told must all be right. Sampled is what "
    "reinforcement learning raises; enforced means that only legal calls of the declared tools can be written. Chance "
    "is a policy that makes one uniform legal call and says what came back."
)
WAYS: Final = ("sampled", "greedy", "enforced")
CHANCE_ROUNDS: Final = 8


def run(model: K2Model, tok: K2Tokenizer, data: Material, p: Parameters) -> SuiteResult:
    """Return the shares of episodes passed in each way of decoding, and of those with well-formed and valid calls."""
    settings = p.tools
    tasks = held_out_tasks(data.tasks, p)
    played = {
        way: play(
            model,
            tok,
            tasks,
            Decoding(settings.max_new_tokens, settings.temperature if way == "sampled" else 0.0, way == "enforced"),
            seed=key(p.seed, f"tools {way}"),
            users_seed=p.seed,
        )
        for way in WAYS
    }
    chance = uniform_success(tasks, p.seed)
    greedy = played["greedy"]
    shares: list[tuple[str, str, list[bool], float | None]] = [
        (f"tools/success_{way}", f"task success, {way}", [e.verdict.passed for e in played[way]], chance)
        for way in WAYS
    ]
    shares += [
        ("tools/valid", "all calls valid by schema, greedy", [_valid(e) for e in greedy], None),
        ("tools/well_formed", "all calls well-formed, greedy", [_well_formed(e) for e in greedy], None),
    ]
    rows, outcomes = [], {}
    for metric, label, passed, guess in shares:
        values = [float(outcome) for outcome in passed]
        interval = wilson(round(sum(values)), len(values))
        rows.append(
            Row(metric, label, interval.value, "share", "higher", len(values), interval.low, interval.high, guess)
        )
        outcomes[metric] = [values, [1.0] * len(values)]
    return SuiteResult(tuple(rows), outcomes, _details(played))


def held_out_tasks(tasks: pl.LazyFrame, p: Parameters) -> list[Task]:
    """Return the first tasks of the split by id; raises UserError if the split has none."""
    rows = tasks.filter(pl.col("split") == p.tools.split).sort("id").head(p.tools.episodes).collect().to_dicts()
    if not rows:
        raise UserError(
            f"parameters/evaluate.yml: evaluate.tools.split is {p.tools.split!r}, but the tasks table has no such "
            "task: choose another split, or make more tasks in tooluse."
        )
    return [Task.from_row(row) for row in rows]


def uniform_success(tasks: Sequence[Task], seed: int) -> float:
    """Return the share of the tasks that uniform legal calls pass, over several draws of each."""
    verdicts = [
        run_episode(task, UniformPolicy(key(seed, f"uniform {task.id}", draw)), seed)[1]
        for task in tasks
        for draw in range(CHANCE_ROUNDS)
    ]
    return sum(verdict.passed for verdict in verdicts) / len(verdicts)


def _well_formed(episode: Episode) -> bool:
    called = any(calls_of(message) for message in episode.messages)
    return called and not any(turn.malformed for turn in episode.turns)


def _valid(episode: Episode) -> bool:
    calls = [call for message in episode.messages for call in calls_of(message)]
    return _well_formed(episode) and not any(_problems(episode.task, call) for call in calls)


def _problems(task: Task, call: dict[str, Any]) -> list[str]:
    name = call["function"]["name"]
    return validate_call(load_tools()[name] if name in task.tools else None, call["function"]["arguments"])


def _details(played: dict[str, list[Episode]]) -> dict[str, Any]:
    greedy = played["greedy"]
    return {
        "mean_score": sum(e.verdict.score for e in greedy) / len(greedy),
        "problems": _common([*turn.malformed, turn.note] for e in greedy for turn in e.turns),
        "failed_checks": _common([c.name for c in e.verdict.checks if not c.passed] for e in greedy),
        "success_by_domain": _by((e.task.domain, e.verdict.passed) for e in played["sampled"]),
        "success_by_kind": _by((e.task.goals[0].kind, e.verdict.passed) for e in played["sampled"]),
    }


def _by(pairs: Iterable[tuple[str, bool]]) -> dict[str, list[int]]:
    """Return group -> [passed, played]."""
    out: dict[str, list[int]] = {}
    for group, passed in pairs:
        count = out.setdefault(group, [0, 0])
        count[0] += passed
        count[1] += 1
    return dict(sorted(out.items()))


def _common(faults: Iterable[Sequence[str]]) -> dict[str, int]:
    """Return the most common faults, with their counts."""
    counts = Counter(fault for episode_faults in faults for fault in sorted({*episode_faults} - {""}))
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:5])
