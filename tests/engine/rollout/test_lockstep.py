"""Many episodes at once: rounds in order, errors end all."""

import pytest

from engine.rollout.lockstep import play_in_lockstep


def test_lockstep_asks_all_waiting_episodes_at_once_in_their_order():
    rounds = []

    def answer_all(requests):
        rounds.append(list(requests))
        return [request * 10 for request in requests]

    def episode(number, turns):
        return lambda ask: [ask(number) for _ in range(turns)]

    lengths = [3, 1, 0, 2]
    outcomes = play_in_lockstep([episode(i, n) for i, n in enumerate(lengths)], answer_all)
    assert outcomes == [[0, 0, 0], [10], [], [30, 30]]
    assert rounds == [[0, 1, 3], [0, 3], [0]]


def test_lockstep_of_nothing_is_nothing():
    assert play_in_lockstep([], lambda requests: requests) == []


@pytest.mark.parametrize("where", ["episode", "answers"])
def test_an_error_ends_all_episodes_and_is_raised(where):
    def waits(ask):
        return ask(1)

    def fails(ask):
        raise KeyError("episode")

    def answer_all(requests):
        raise KeyError("answers")

    with pytest.raises(KeyError, match=where):
        play_in_lockstep([waits, waits, fails] if where == "episode" else [waits, waits], answer_all)
