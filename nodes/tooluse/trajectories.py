"""Trajectories: every task played with several personas, faults and defects, and judged."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from engine.errors import UserError
from engine.toolworld.episode import run_episode
from engine.toolworld.keyed import keyed_digest, keyed_random
from engine.toolworld.messages import Message, compact
from engine.toolworld.policy import DEFECTS, TemplatePolicy
from engine.toolworld.specs import choose_domains
from engine.toolworld.tasks import Task
from engine.toolworld.user import Persona, persona
from engine.toolworld.world import FaultRates
from nodes.tooluse.schema import Parameters


@dataclass(frozen=True)
class Played:
    """One judged episode: its row, whether it passed, and the defect that showed (none: "")."""

    row: dict[str, Any]
    passed: bool
    planted: str
    checks_failed: tuple[str, ...]


def check_names(p: Parameters) -> None:
    """Refuse what this stage does not have, before any work."""
    where = "parameters/tooluse.yml"
    if p.generator != "template":
        raise UserError(f"{where}: generator: '{p.generator}' is not available in this stage; use template.")
    for name in p.defects:
        if name not in DEFECTS:
            raise UserError(f"{where}: defects: '{name}' is not a defect; choose among {', '.join(DEFECTS)}.")
    for name in p.personas:
        persona(name)
    choose_domains(p.domains, where)


def play_all(task: Task, p: Parameters) -> Iterator[Played]:
    """Every episode of `task`, in order; dialogues that came out the same count once."""
    faults = FaultRates(p.faults.busy, p.faults.partial, p.faults.most)
    seen: set[str] = set()
    for episode in range(p.episodes_per_task):
        played = _play(task, episode, p, faults)
        if played.row["messages"] not in seen:
            seen.add(played.row["messages"])
            yield played


def _play(task: Task, episode: int, p: Parameters, faults: FaultRates) -> Played:
    rng = keyed_random(p.seed, "episode", task.id, episode)
    # Personas take turns from a random start: a task meets as many different users as it has episodes.
    offset = keyed_random(p.seed, "personas", task.id).randrange(len(p.personas))
    who = persona(p.personas[(offset + episode) % len(p.personas)])
    defect = _draw_defect(rng.random(), p.defects)
    seed = rng.randrange(2**31)
    agent = TemplatePolicy(task, who, seed, defect=defect, parallel=rng.random() < p.parallel)
    messages, verdict = run_episode(task, agent, seed, who, faults)
    planted = defect if agent.planted else ""
    failed = tuple(check.name for check in verdict.checks if not check.passed)
    word = {**verdict.to_dict(), "persona": who.name, "planted_defect": planted}
    return Played(_row(task, who, episode, messages, word), verdict.passed, planted, failed)


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


def metrics_of(tasks: list[Task], played: list[Played]) -> dict[str, float | int | str]:
    """Headline metrics: how much was made, how much passed, and how well the judge caught what was planted."""
    passed = [one for one in played if one.passed]
    planted = [one for one in played if one.planted]
    clean = [one for one in played if not one.planted]
    metrics: dict[str, float | int | str] = {
        "tasks": len(tasks),
        "episodes": len(played),
        "trajectories": len(passed),
        "pass_rate": round(len(passed) / len(played), 4),
        "turns_mean": round(sum(one.row["turns"] for one in passed) / max(1, len(passed)), 2),
        "defects_planted": len(planted),
        "defects_caught": sum(not one.passed for one in planted),
        "clean_rejected": sum(not one.passed for one in clean),
    }
    metrics |= {f"tasks_{name}": n for name, n in sorted(Counter(task.difficulty for task in tasks).items())}
    metrics |= {f"trajectories_{name}": n for name, n in sorted(Counter(one.row["split"] for one in passed).items())}
    failed = Counter(name for one in played if not one.passed for name in one.checks_failed)
    return metrics | {f"rejected_for_{name}": n for name, n in sorted(failed.items())}
