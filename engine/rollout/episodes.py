"""Let a model play many episodes of the tool world at once, keeping each turn's tokens, for evaluation and rewards.

A round decodes the next turn of every episode that waits for one. Each turn's prompt and log-probabilities are kept,
so that reinforcement learning can train on whole episodes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from engine.keyed import key
from engine.model.model import K2Model
from engine.parallel.data import ALONE, Ranks
from engine.rollout.enforcer import Enforcer
from engine.rollout.generate import Completion
from engine.rollout.lockstep import play_in_lockstep
from engine.rollout.shared import generate_shared
from engine.text.chat import encode_chat, parse_turn_ids
from engine.text.tokenizer import K2Tokenizer
from engine.toolworld.episode import run_episode
from engine.toolworld.judge import Verdict
from engine.toolworld.messages import Message, calls_made
from engine.toolworld.tasks import Task

EMPTY: Message = {"role": "assistant", "content": ""}


@dataclass(frozen=True)
class Decoding:
    """How turns are drawn: their maximum length, the temperature, and whether only legal tool calls may be written.

    `ranks` share the drawing: all of them play the same episodes together.
    """

    max_new_tokens: int
    temperature: float
    enforce: bool = False
    ranks: Ranks = ALONE


@dataclass(frozen=True)
class Turn:
    """One assistant turn: the prompt's tokens, the sampled tokens, the message read from them, and its faults."""

    prompt_ids: list[int]
    completion: Completion
    message: Message
    malformed: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Episode:
    """A finished episode: its task, the dialogue, the judge's verdict and the model's turns, in order."""

    task: Task
    messages: list[Message]
    verdict: Verdict
    turns: list[Turn] = field(default_factory=list)


@dataclass(frozen=True)
class _Request:
    """The request of one episode for a turn: its number and its dialogue so far."""

    number: int
    task: Task
    messages: list[Message]


def play(
    model: K2Model, tok: K2Tokenizer, tasks: Sequence[Task], how: Decoding, seed: int, users_seed: int
) -> list[Episode]:
    """Play each task once, in the tasks' order; a task that is listed twice is played twice, with different draws.

    `seed` is the key of the model's draws, `users_seed` that of the personas: equal tasks get equal users. A dialogue
    that is too long for the model's context gets an empty turn.
    """
    rounds = iter(range(10**6))

    def answer_all(requests: list[_Request]) -> list[Turn]:
        return next_turns(model, tok, requests, how, key(seed, "round of turns", next(rounds)))

    episodes = [_episode(number, task, users_seed) for number, task in enumerate(tasks)]
    return play_in_lockstep(episodes, answer_all)


def _episode(number: int, task: Task, users_seed: int) -> Callable[[Callable[[_Request], Turn]], Episode]:
    def play_one(ask: Callable[[_Request], Turn]) -> Episode:
        turns: list[Turn] = []

        def agent(messages: list[Message], _: object) -> Message:
            turns.append(ask(_Request(number, task, messages)))
            return turns[-1].message

        messages, verdict = run_episode(task, agent, users_seed)
        return Episode(task, messages, verdict, turns)

    return play_one


def next_turns(model: K2Model, tok: K2Tokenizer, requests: Sequence[_Request], how: Decoding, seed: int) -> list[Turn]:
    """Return the next assistant turn of each dialogue."""
    prompts = [encode_chat(tok, r.messages, r.task.openai_tools(), add_generation_prompt=True)[0] for r in requests]
    room = model.config.max_position_embeddings - how.max_new_tokens
    fitting = [index for index, prompt in enumerate(prompts) if len(prompt) <= room]
    turns = [
        Turn(prompt, Completion([], [], truncated=True), EMPTY, note="the dialogue exceeds the context")
        for prompt in prompts
    ]
    enforcer = Enforcer(tok, [(requests[i].task.tool_specs(), calls_made(requests[i].messages)) for i in fitting])
    done = generate_shared(
        model, [prompts[i] for i in fitting], how.max_new_tokens, how.temperature, seed, tok.im_end_id,
        enforcer if how.enforce else None, how.ranks,
    )  # fmt: skip
    for index, completion in zip(fitting, done, strict=True):
        parsed = parse_turn_ids(tok, completion.tokens)
        note = "a turn has no end" if completion.truncated else ""
        turns[index] = Turn(prompts[index], completion, parsed.message(), parsed.problems, note)
    return turns
