"""Run many episodes at once: each waits for its agent's turn until all others wait too, then one batch decodes.

An episode is ordinary blocking code that calls its agent. Each runs in its own thread, and all waiting calls are
answered together, which turns many single-prompt decodes into a few wide ones. The result is deterministic: a round
begins only when every unfinished episode waits, and the requests of a round are taken in the episodes' order.
"""

import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

Request = TypeVar("Request")
Reply = TypeVar("Reply")
Outcome = TypeVar("Outcome")


class _Event(NamedTuple):
    """A message from an episode's thread: it asks for a turn, is done, or failed."""

    number: int
    kind: str
    value: Any


class _Abandoned(Exception):
    """Ends the threads of the other episodes after one failed."""


def play_in_lockstep(
    episodes: Sequence[Callable[[Callable[[Request], Reply]], Outcome]],
    answer_all: Callable[[list[Request]], list[Reply]],
) -> list[Outcome]:
    """Run all episodes; each is called with `ask`, which blocks until `answer_all` has answered its round.

    Returns the episodes' outcomes in their order. The first error of an episode or of `answer_all` ends all of them
    and is raised.
    """
    events: SimpleQueue[_Event] = SimpleQueue()
    replies: list[SimpleQueue[Any]] = [SimpleQueue() for _ in episodes]
    threads = [
        threading.Thread(target=_play, args=(index, episode, events, replies[index]), daemon=True)
        for index, episode in enumerate(episodes)
    ]
    for thread in threads:
        thread.start()
    outcomes: dict[int, Outcome] = {}
    try:
        while len(outcomes) < len(episodes):
            waiting = _round(events, outcomes, len(episodes))
            answers = answer_all([waiting[index] for index in sorted(waiting)]) if waiting else []
            for index, reply in zip(sorted(waiting), answers, strict=True):
                replies[index].put(reply)
    finally:
        for queue in replies:
            queue.put(_Abandoned())
        for thread in threads:
            thread.join()
    return [outcomes[index] for index in range(len(episodes))]


def _play(index: int, episode: Callable[..., Any], events: SimpleQueue[_Event], replies: SimpleQueue[Any]) -> None:
    """Run one episode in its thread: requests and the end go out as events, replies come in through `replies`."""

    def ask(request: Any) -> Any:
        events.put(_Event(index, "asks", request))
        reply = replies.get()
        if isinstance(reply, _Abandoned):
            raise reply
        return reply

    try:
        events.put(_Event(index, "done", episode(ask)))
    except BaseException as error:
        events.put(_Event(index, "failed", error))


def _round(events: SimpleQueue[_Event], outcomes: dict[int, Any], total: int) -> dict[int, Any]:
    """Wait until every episode asks or is done; return the requests, add to `outcomes`, raise an episode's error."""
    waiting: dict[int, Any] = {}
    while len(waiting) + len(outcomes) < total:
        event = events.get()
        if event.kind == "failed":
            raise event.value
        (waiting if event.kind == "asks" else outcomes)[event.number] = event.value
    return waiting
