"""Tool use: held-out tasks of the tool world, played to the end by the model and judged by the rubric."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import polars as pl

from engine.errors import UserError
from engine.model.model import K2Model
from engine.rollout.generate import generate
from engine.text.chat import encode_chat, parse_turn_ids
from engine.text.tokenizer import K2Tokenizer
from engine.toolworld.episode import run_episode
from engine.toolworld.messages import Message, calls_of
from engine.toolworld.specs import load_tools
from engine.toolworld.tasks import Task
from engine.toolworld.validate import validate_call
from nodes.evaluate.intervals import wilson
from nodes.evaluate.results import Row, SuiteResult
from nodes.evaluate.schema import Parameters
from nodes.evaluate.suites.lockstep import play_in_lockstep
from nodes.evaluate.suites.material import Material

TITLE: Final = "Tool use"
ABOUT: Final = (
    "Episodes of held-out tasks with a simulated user and stateful tools, greedy decoding, no constrained decoding. "
    "An episode without a call counts as neither well-formed nor valid. Success: the rubric judge passes it."
)

Tools = list[dict[str, Any]]


class Turn(NamedTuple):
    """An assistant message, what was malformed about the calls in it, and what else went wrong ("" for nothing)."""

    message: Message
    malformed: tuple[str, ...] = ()
    note: str = ""


@dataclass
class Played:
    """What one episode showed."""

    well_formed: bool = False
    valid: bool = False
    success: bool = False
    score: float = 0.0
    malformed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def run(model: K2Model, tok: K2Tokenizer, data: Material, p: Parameters) -> SuiteResult:
    """Shares of episodes with well-formed calls, with valid calls, and passed; the mean rubric score."""
    tasks = held_out_tasks(data.tasks, p)
    episodes = [_episode(task, p.seed) for task in tasks]
    played = play_in_lockstep(episodes, lambda asked: answer_all(model, tok, asked, p))
    shares = {
        "tools/success": ("task success", [float(one.success) for one in played]),
        "tools/valid": ("all calls valid by schema", [float(one.valid) for one in played]),
        "tools/well_formed": ("all calls well-formed", [float(one.well_formed) for one in played]),
    }
    rows = []
    for metric, (label, values) in shares.items():
        interval = wilson(round(sum(values)), len(values))
        rows.append(Row(metric, label, interval.value, "share", "higher", len(values), interval.low, interval.high))
    outcomes = {metric: [values, [1.0] * len(values)] for metric, (_, values) in shares.items()}
    details = {"mean_score": sum(one.score for one in played) / len(played), "problems": _common(played)}
    return SuiteResult(tuple(rows), outcomes, details)


def held_out_tasks(tasks: pl.LazyFrame, p: Parameters) -> list[Task]:
    """The first tasks of the split by id. Raises UserError if the split has none."""
    rows = tasks.filter(pl.col("split") == p.tools.split).sort("id").head(p.tools.episodes).collect().to_dicts()
    if not rows:
        raise UserError(
            f"parameters/evaluate.yml: evaluate.tools.split is {p.tools.split!r}, but the tasks table has no such "
            "task: choose another split, or make more tasks in tooluse."
        )
    return [Task.from_row(row) for row in rows]


def _episode(task: Task, seed: int) -> Callable[[Callable[[tuple[list[Message], Tools]], Turn]], Played]:
    def play(ask: Callable[[tuple[list[Message], Tools]], Turn]) -> Played:
        played = Played()

        def agent(messages: list[Message], tools: Tools) -> Message:
            turn = ask((messages, tools))
            played.malformed += turn.malformed
            played.notes += [turn.note] if turn.note else []
            return turn.message

        messages, verdict = run_episode(task, agent, seed)
        calls = [call for message in messages for call in calls_of(message)]
        played.well_formed = bool(calls) and not played.malformed
        played.valid = played.well_formed and not any(_invalid(task, call) for call in calls)
        played.success, played.score = verdict.passed, verdict.score
        return played

    return play


def _invalid(task: Task, call: dict[str, Any]) -> list[str]:
    name = call["function"]["name"]
    return validate_call(load_tools()[name] if name in task.tools else None, call["function"]["arguments"])


def answer_all(
    model: K2Model, tok: K2Tokenizer, asked: Sequence[tuple[list[Message], Tools]], p: Parameters
) -> list[Turn]:
    """The next assistant turn of each dialogue, greedily; one too long for the model's context gets an empty turn."""
    prompts = [encode_chat(tok, messages, tools, add_generation_prompt=True)[0] for messages, tools in asked]
    room = model.config.max_position_embeddings - p.tools.max_new_tokens
    fitting = [index for index, prompt in enumerate(prompts) if len(prompt) <= room]
    turns = [Turn({"role": "assistant", "content": ""}, note="the dialogue exceeds the context") for _ in prompts]
    done = generate(model, [prompts[i] for i in fitting], p.tools.max_new_tokens, 0.0, p.seed, tok.im_end_id)
    for index, completion in zip(fitting, done, strict=True):
        parsed = parse_turn_ids(tok, completion.tokens)
        note = "a turn has no end" if completion.truncated else ""
        turns[index] = Turn(parsed.message(), parsed.problems, note)
    return turns


def _common(played: Sequence[Played]) -> dict[str, int]:
    """How many episodes had each of the commonest faults of writing."""
    counts: dict[str, int] = {}
    for one in played:
        for problem in sorted({*one.malformed, *one.notes}):
            counts[problem] = counts.get(problem, 0) + 1
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:5])
