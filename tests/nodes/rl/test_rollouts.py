"""An iteration's responses: log-probabilities, penalties, what is left out, and the permuted control."""

import pytest
import torch
import yaml
from pydantic import ValidationError

from engine.keyed import key
from engine.parallel.data import ALONE, Ranks
from engine.rollout.generate import Completion
from engine.rollout.teacher import completion_logprobs
from nodes.rl import rollouts
from nodes.rl.objective import squared_objective
from nodes.rl.rewards import SampledResponse, Sums
from nodes.rl.rollouts import Minibatch, collect, distinct, merge, minibatch, permuted
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


def prompts_of(part):
    turns = part.turns
    return [ids[-n:] for ids, n in zip(turns.prompts_NP.tolist(), turns.prompt_lengths_N.tolist(), strict=True)]


def completions_of(part):
    return [ids[:n] for ids, n in zip(part.turns.ids_TW.tolist(), part.turns.lengths_T.tolist(), strict=True)]


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
    model.train()
    again = completion_logprobs(model, part.turns)
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
        assert drawn.minibatches == [None]
        assert drawn.figures["rows_trained"] == 0


def test_only_prompts_with_variance_are_trained_on(tokenizer, monkeypatch):
    p = parameters()
    rewards = [0.0] * 4 + [1.0, 0.0, 0.0, 0.0] + [1.0] * 4 + [0.0] * 8
    monkeypatch.setattr(rollouts, "penalised", lambda scores, truncated, penalty: rewards)
    drawn = drawn_by(tokenizer, 0, p)
    (part,) = drawn.minibatches
    assert part.advantages_M.tolist() == [0.75, -0.25, -0.25, -0.25]
    assert part.counts_M.tolist() == [1, 1, 1, 1]
    assert len(completions_of(part)) == len(part.drawn_logprobs_M) == drawn.figures["rows_trained"] == 4
    assert (part.total, part.live) == (20, 4)
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
    part = minibatch(distinct([one, other], torch.tensor([[1.0, 0.0]])), 2, 0.7)
    assert prompts_of(part) == [[1, 2], [1, 2, 5, 6], [1, 2, 8]]
    assert part.turns.which_T.tolist() == [0, 1, 0, 2]
    assert part.response_T.tolist() == [0, 0, 1, 1]
    assert completions_of(part) == [[5, 6], [7], [8], [7]]
    assert part.turns.temperature_T.tolist() == pytest.approx([0.7] * 4)
    assert part.drawn_logprobs_M.tolist() == [-3.0, -2.0]
    assert part.advantages_M.tolist() == [0.5, -0.5]


def test_minibatches_deal_out_every_prompt_once(tokenizer, monkeypatch):
    p = parameters(prompts=6, minibatches=2)
    monkeypatch.setattr(rollouts, "penalised", lambda scores, truncated, penalty: [i % 4 for i in range(len(scores))])
    drawn = drawn_by(tokenizer, 0, p)
    assert [part.total for part in drawn.minibatches] == [12, 12]
    assert sum(float(part.counts_M.sum()) for part in drawn.minibatches) == 24
    questions = [{tuple(prompt) for prompt in prompts_of(part)} for part in drawn.minibatches]
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
    responses = sums(toy.model(), tokenizer, p).draw(toy.model(), 0, 3.0, ALONE)
    rewards_NK = torch.tensor([[1.0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1]])
    distinct_N = distinct(responses, rewards_NK)
    whole = minibatch(distinct_N, 4, 3.0)
    shares = [minibatch(distinct_N, 4, 3.0, ranks=Ranks(rank, size)) for rank in range(size)]

    def objective(part, total):
        now_M = part.drawn_logprobs_M * 1.01
        return squared_objective(now_M, part.drawn_logprobs_M, part.advantages_M, part.counts_M, 0.5, total=total)

    assert {float(part.total) for part in shares} == {float(whole.total)} == {20.0}, "of the whole step on every rank"
    each = torch.stack([objective(part, part.total / size) for part in shares])
    torch.testing.assert_close(each.mean(), objective(whole, whole.total))
    assert float(whole.live) == float(whole.counts_M.sum()) == 16
    assert sum(float((part.counts_M / part.live).sum()) for part in shares) == pytest.approx(1.0)
    both = [completion for part in shares for completion in completions_of(part)]
    assert sorted(both) == sorted(completions_of(whole))


def test_a_minibatch_comes_out_of_a_batch_as_it_went_in():
    one, other = response([[5, 6], [7]], [[1, 2], [1, 2, 5, 6]]), response([[8]], [[1, 2]])
    part = minibatch(distinct([one, other], torch.tensor([[1.0, 0.0]])), 2, 0.7)
    batch = part.packed("sums")
    assert all(isinstance(tensor, torch.Tensor) and name.startswith("sums/") for name, tensor in batch.items())
    again = Minibatch.of(batch, "sums")
    assert again.packed("sums").keys() == batch.keys()
    assert all(again.packed("sums")[name] is tensor for name, tensor in batch.items())
