"""An iteration's responses: log-probabilities, penalties, what is left out, and the permuted control."""

import pytest
import torch
import yaml
from pydantic import ValidationError

from engine.keyed import key
from engine.parallel.data import Ranks
from engine.rollout.generate import Completion
from engine.rollout.teacher import completion_logprobs
from nodes.rl import rollouts
from nodes.rl.objective import squared_objective
from nodes.rl.rewards import SampledResponse, Sums
from nodes.rl.rollouts import collect, merge, minibatch, permuted
from nodes.rl.schema import Parameters
from tests.nodes import toy


def parameters(**changes):
    with open("conf/base/parameters/rl.yml") as file:
        base = yaml.safe_load(file)["rl"]
    small = {"task": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}, "prompts": 5, "samples": 4}
    small |= {"minibatches": 1, "inner_steps": 2, "tuning_prompts": 8, "evaluation_prompts": 10}
    small |= {"tools": {**base["tools"], "tasks": 0}}
    return Parameters.model_validate({**base, **small, "iterations": 4, "warmup_steps": 0, **changes})


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return toy.tokenizer(tmp_path_factory.mktemp("tokenizer"))


def sums(model, tokenizer, p):
    return Sums(tokenizer, model.config, p)


def drawn_by(tokenizer, iteration, p):
    model = toy.model()
    return collect(model, sums(model, tokenizer, p), iteration, p)


@pytest.mark.parametrize("iteration", [0, 3])
def test_teacher_forced_logprobs_equal_the_samplers_at_its_temperature(tokenizer, iteration, monkeypatch):
    """The ratio of the first inner step is 1: same weights, same temperature, cache or no cache."""
    p = parameters(temperature_start=1.7, temperature_end=0.6)
    draws = torch.rand(100, generator=torch.Generator().manual_seed(0)).tolist()
    monkeypatch.setattr("engine.rollout.passrate.score", lambda item, text: float(draws.pop() > 0.5))
    monkeypatch.setattr(rollouts, "penalised", lambda scores, truncated, penalty: [i % 2 for i in range(len(scores))])
    model = toy.model()
    drawn = collect(model, sums(model, tokenizer, p), iteration, p)
    (part,) = drawn.minibatches
    assert not part.empty
    model.train()
    again = completion_logprobs(model, part.prompts, part.which_T, part.completions, drawn.temperature)
    assert drawn.temperature == pytest.approx(1.7 if iteration == 0 else 0.6)
    torch.testing.assert_close(again.detach(), part.drawn_logprobs_M, atol=1e-5, rtol=0)


def test_an_untrained_policy_runs_over_budget_pays_and_teaches_nothing(tokenizer):
    p = parameters(max_new_tokens=2, truncation_penalty=0.25)
    drawn = drawn_by(tokenizer, 0, p)
    cut = [row for row in drawn.rows if row["truncated"]]
    assert cut
    assert all(row["reward"] == -0.25 for row in cut)
    assert len(drawn.rows) == 20
    assert drawn.figures["truncated"] == len(cut) / 20
    if len(cut) == 20:
        (part,) = drawn.minibatches
        assert part.empty
        assert part.advantages_M.numel() == 0


def test_only_prompts_with_variance_are_trained_on(tokenizer, monkeypatch):
    p = parameters()
    rewards = [0.0] * 4 + [1.0, 0.0, 0.0, 0.0] + [1.0] * 4 + [0.0] * 8
    monkeypatch.setattr(rollouts, "penalised", lambda scores, truncated, penalty: rewards)
    drawn = drawn_by(tokenizer, 0, p)
    (part,) = drawn.minibatches
    assert part.advantages_M.tolist() == [0.75, -0.25, -0.25, -0.25]
    assert part.counts_M.tolist() == [1, 1, 1, 1]
    assert len(part.completions) == len(part.drawn_logprobs_M) == 4
    assert part.total == 20
    assert drawn.figures["informative"] == pytest.approx(1 / 5)


def test_permutation_keeps_each_prompts_rewards_and_loses_their_place():
    rewards = torch.arange(60.0).view(6, 10)
    shuffled = permuted(rewards, key(1, "x"))
    assert [sorted(row) for row in shuffled.tolist()] == rewards.tolist()
    assert (shuffled == rewards).float().mean() < 0.5
    torch.testing.assert_close(shuffled, permuted(rewards, key(1, "x")))


def test_the_same_seed_draws_the_same(tokenizer):
    p = parameters()
    assert drawn_by(tokenizer, 1, p).rows == drawn_by(tokenizer, 1, p).rows
    assert drawn_by(tokenizer, 1, p).rows != drawn_by(tokenizer, 2, p).rows


def test_equal_responses_to_a_question_are_joined():
    drawn = [response([tokens]) for tokens in ([5], [6], [5])]
    joined = merge(drawn, [1.0, -1.0, 0.0])
    assert [(one.response, one.advantages) for one in joined] == [(drawn[0], [1.0, 0.0]), (drawn[1], [-1.0])]


def response(turns, prompts=None):
    """A response of these turns, a prompt each."""
    prompts = prompts or [[1]] * len(turns)
    said = tuple((prompt, Completion(turn, [-1.0] * len(turn), False)) for prompt, turn in zip(prompts, turns))
    return SampledResponse(said, 0.0, False, "", "", "")


def test_an_episodes_turns_are_one_response_whose_log_probabilities_add_up():
    """Two episodes of one task: the first turn's prompt is read once, the second's differ with what was called."""
    one = response([[5, 6], [7]], [[1, 2], [1, 2, 5, 6]])
    other = response([[8], [7]], [[1, 2], [1, 2, 8]])
    part = minibatch([one, other], torch.tensor([[1.0, 0.0]]), 0, 1)
    assert part.prompts == [[1, 2], [1, 2, 5, 6], [1, 2, 8]]
    assert part.which_T.tolist() == [0, 1, 0, 2]
    assert part.response_T.tolist() == [0, 0, 1, 1]
    assert part.completions == [[5, 6], [7], [8], [7]]
    assert part.drawn_logprobs_M.tolist() == [-3.0, -2.0]
    assert part.advantages_M.tolist() == [0.5, -0.5]


def test_minibatches_deal_out_every_prompt_once(tokenizer, monkeypatch):
    p = parameters(prompts=6, minibatches=2)
    monkeypatch.setattr(rollouts, "penalised", lambda scores, truncated, penalty: [i % 4 for i in range(len(scores))])
    drawn = drawn_by(tokenizer, 0, p)
    assert [part.total for part in drawn.minibatches] == [12, 12]
    assert sum(float(part.counts_M.sum()) for part in drawn.minibatches) == 24
    questions = [{tuple(prompt) for prompt in part.prompts} for part in drawn.minibatches]
    assert not questions[0] & questions[1]


def test_minibatches_that_do_not_divide_are_refused():
    with pytest.raises(ValidationError, match="minibatches must divide"):
        parameters(prompts=5, minibatches=2)


def test_a_gain_on_one_prompt_which_has_no_interval_is_refused():
    with pytest.raises(ValidationError, match="evaluation_prompts"):
        parameters(evaluation_prompts=1)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_ranks_shares_average_to_the_whole_minibatch(tokenizer, size):
    """Five prompts, one of them uninformative, dealt unevenly; one rank may hold nothing at all."""
    p = parameters(temperature_start=3.0, temperature_end=3.0)
    responses = sums(toy.model(), tokenizer, p).draw(toy.model(), 0, 3.0)
    rewards_NK = torch.tensor([[1.0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1]])
    whole = minibatch(responses, rewards_NK, 0, 1)
    shares = [minibatch(responses, rewards_NK, 0, 1, Ranks(rank, size)) for rank in range(size)]

    def objective(part):
        now_M = part.drawn_logprobs_M * 1.01
        return squared_objective(now_M, part.drawn_logprobs_M, part.advantages_M, part.counts_M, 0.5, total=part.total)

    torch.testing.assert_close(torch.stack([objective(part) for part in shares]).mean(), objective(whole))
    assert whole.live == float(whole.counts_M.sum()) == 16
    assert sum(float((part.counts_M / part.live).sum()) for part in shares) / size == pytest.approx(1.0)
    assert sorted(tuple(c) for part in shares for c in part.completions) == sorted(tuple(c) for c in whole.completions)
    assert not any(part.empty for part in shares)
