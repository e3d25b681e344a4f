"""Make trajectories: play every task with several personas, faults and defects, and judge it."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final

import polars as pl

from engine.artifacts.tables import polars_schema
from engine.errors import UserError
from engine.keyed import keyed_digest, keyed_random
from engine.toolworld.episode import run_episode
from engine.toolworld.messages import Message, compact
from engine.toolworld.policy import DEFECTS, TemplatePolicy
from engine.toolworld.specs import choose_domains
from engine.toolworld.tasks import Task
from engine.toolworld.user import Persona, persona
from engine.toolworld.world import FaultRates
from nodes.tooluse.schema import TRAJECTORIES, Parameters

PLAYED: Final = pl.Schema(
    {
        **polars_schema(TRAJECTORIES),
        "passed": pl.Boolean(),
        "planted": pl.String(),  # the defect that occurred, or ""
        "checks_failed": pl.List(pl.String()),
    }
)
"""A judged episode: its row, whether it passed, and what only the metrics need."""
TASKS_A_BLOCK: Final = 128  # some tenths of a second of work, which a killed run may lose


def check_names(p: Parameters) -> None:
    """Refuse unknown names and unavailable generators before any work."""
    where = "parameters/tooluse.yml"
    if p.generator != "template":
        raise UserError(f"{where}: generator: '{p.generator}' is not available in this stage; use template.")
    for name in p.defects:
        if name not in DEFECTS:
            raise UserError(f"{where}: defects: '{name}' is not a defect; choose among {', '.join(DEFECTS)}.")
    for name in p.personas:
        persona(name)
    choose_domains(p.domains, where)


def read_tasks(tasks: pl.LazyFrame) -> Iterator[Task]:
    """Yield the tasks in the table's order, one batch in memory. A rubric of another form is a `UserError`."""
    for batch in tasks.collect_batches(chunk_size=TASKS_A_BLOCK, maintain_order=True):
        yield from map(Task.from_row, batch.iter_rows(named=True))


def play_all(tasks: Iterable[Task], p: Parameters) -> Iterator[dict[str, Any]]:
    """Yield every episode of every task, in order, as rows of PLAYED; equal dialogues of a task count once.

    Tasks reserved for reinforcement learning are not played: their first trajectories are the policy's own.
    """
    faults = FaultRates(p.faults.busy, p.faults.partial, p.faults.most)
    for task in tasks:
        if task.split == "rl":
            continue
        seen: set[str] = set()
        for episode in range(p.episodes_per_task):
            row = _play(task, episode, p, faults)
            if row["messages"] not in seen:
                seen.add(row["messages"])
                yield row


def _play(task: Task, episode: int, p: Parameters, faults: FaultRates) -> dict[str, Any]:
    rng = keyed_random(p.seed, "episode", task.id, episode)
    # Personas take turns from a random start, so that a task meets as many different users as it has episodes.
    offset = keyed_random(p.seed, "personas", task.id).randrange(len(p.personas))
    who = persona(p.personas[(offset + episode) % len(p.personas)])
    defect = _draw_defect(rng.random(), p.defects)
    seed = rng.randrange(2**31)
    agent = TemplatePolicy(task, who, seed, defect=defect, parallel=rng.random() < p.parallel)
    messages, verdict = run_episode(task, agent, seed, who, faults)
    planted = defect if agent.planted else ""
    described = {**verdict.to_dict(), "persona": who.name, "planted_defect": planted}
    return {
        **_row(task, who, episode, messages, described),
        "passed": verdict.passed,
        "planted": planted,
        "checks_failed": [check.name for check in verdict.checks if not check.passed],
    }


def _draw_defect(draw: float, defects: dict[str, float]) -> str:
    for name in sorted(defects):
        draw -= defects[name]
        if draw < 0:
            return name
    return ""


def _row(task: Task, who: Persona, episode: int, messages: list[Message], verdict: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "traj_" + keyed_digest(task.id, who.name, episode),
        "task_id": task.id,
        "agent_id": task.agent_id,
        "domain": task.domain,
        "split": task.split,
        "messages": compact(messages),
        "tools": compact(task.openai_tools()),
        "score": verdict["score"],
        "verdict": compact(verdict),
        "turns": sum(message["role"] == "assistant" for message in messages),
        "generator": "template",
    }


def metrics_of(difficulties: Iterable[str], played: pl.LazyFrame) -> dict[str, float | int | str]:
    """Return the headline metrics: how much was made, how much passed, and how many planted defects the judge caught.

    `difficulties` are those of the tasks; `played` has the columns of PLAYED.
    """
    by_difficulty = Counter(difficulties)
    facts = played.select("passed", "planted", "split", "turns", "checks_failed").collect()
    passed, planted = facts.filter(pl.col("passed")), facts.filter(pl.col("planted") != "")
    metrics: dict[str, float | int | str] = {
        "tasks": by_difficulty.total(),
        "episodes": facts.height,
        "trajectories": passed.height,
        "pass_rate": round(passed.height / facts.height, 4),
        "turns_mean": round(int(passed["turns"].sum()) / max(1, passed.height), 2),
        "defects_planted": planted.height,
        "defects_caught": planted.filter(~pl.col("passed")).height,
        "clean_rejected": facts.filter(~pl.col("passed"), pl.col("planted") == "").height,
    }
    metrics |= {f"tasks_{name}": n for name, n in sorted(by_difficulty.items())}
    metrics |= {f"trajectories_{name}": n for name, n in sorted(Counter(passed["split"]).items())}
    failed = Counter(facts.filter(~pl.col("passed"))["checks_failed"].explode().drop_nulls())
    return metrics | {f"rejected_for_{name}": n for name, n in sorted(failed.items())}
