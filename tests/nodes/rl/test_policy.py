"""The policy's loss: old and new log-probabilities come from one forward, in whatever type it computes."""

import json

import pytest
import torch

from engine.model.checkpoint import load_checkpoint, save_checkpoint
from engine.parallel.data import ALONE
from engine.rollout.teacher import completion_logprobs
from engine.training.examples import Encoded
from engine.training.numerics import autocast
from nodes.rl import rollouts
from nodes.rl.policy import PolicyTraining
from nodes.rl.rewards import Sums
from nodes.rl.rollouts import Minibatch
from nodes.rl.tables import read_rollouts, write_rollouts
from tests.nodes import toy
from tests.nodes.rl.test_rollouts import parameters

NO_PTX = {"weight": 0.0, "chat": 0, "trajectory": 0, "natural": 0, "natural_tokens": 16, "max_tokens": 128}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return toy.tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def training(tokenizer, tmp_path, monkeypatch):
    """One iteration of two minibatches, each taken twice, with the trainer's type to be chosen."""
    monkeypatch.setattr(rollouts, "penalised", lambda scores, truncated, penalty: [i % 2 for i in range(len(scores))])

    def made(dtype, **changes):
        few = {"prompts": 6, "minibatches": 2, "inner_steps": 4, "iterations": 1, "max_new_tokens": 4}
        p = parameters(**{**few, "tuning_prompts": 2, "ptx": NO_PTX, "dtype": dtype, **changes})
        model = toy.model()
        with torch.no_grad():
            model.lm_head.weight.mul_(20)  # logits far apart, so that bf16 shows
        return PolicyTraining(
            model, [Sums(tokenizer, model.config, p)], p, ptx=Encoded({}, 0), natural=None, work=tmp_path
        )

    return made


def figures_of(policy, source, step):
    """The figures of one step's loss, in the mode in which the loop takes it."""
    batch = source.rows(step, ALONE)
    policy.model.train()
    with autocast(policy.p.dtype):
        loss, figures = policy.loss(policy.model, batch)
    loss.backward()
    return {name: float(value) for name, value in figures.items()}


def test_in_bf16_the_log_ratio_is_exactly_0_while_the_weights_stand_still(training):
    """At the first inner step of K2's objective, and for every minibatch that is taken before the weights move."""
    policy = training("bfloat16")
    source, _ = policy.sample(0)
    for step in range(4):
        figures = figures_of(policy, source, step)
        assert figures["empty"] == figures["ratio_max"] == figures["kl"] == 0.0
        assert figures["sampler_gap"] > 1e-3


def test_in_fp32_the_samplers_log_probabilities_serve(training):
    policy = training("float32")
    source, _ = policy.sample(0)
    for step in range(4):
        assert 0 <= figures_of(policy, source, step)["ratio_max"] < 1e-4


def test_once_the_weights_have_moved_the_ratio_shows_them_alone(training):
    policy = training("bfloat16")
    source, _ = policy.sample(0)
    figures_of(policy, source, 0)
    with torch.no_grad():
        policy.model.lm_head.weight.mul_(1.01)
    for step in range(4):
        assert figures_of(policy, source, step)["ratio_max"] > 0


def test_what_another_run_left_of_iterations_to_come_is_not_taken_for_this_ones(training):
    """Adopted work has candidates and rollouts of steps after its checkpoint, made by another key's policy."""
    policy = training("float32")
    for iteration in (0, 1, 7):
        policy.candidates.consider(iteration, last=True)
    foreign = toy.model()
    with torch.no_grad():
        foreign.lm_head.weight.zero_()
    save_checkpoint(policy.work / "candidates" / "000001", foreign, {})
    write_rollouts([], policy.work / "rollouts", 0)
    write_rollouts([], policy.work / "rollouts", 5)
    policy.run()
    assert [iteration for iteration, _ in policy.candidates.judged()] == [0, 1]
    assert load_checkpoint(policy.work / "candidates" / "000001").lm_head.weight.abs().sum() > 0
    assert [path.name for path in (policy.work / "rollouts").iterdir()] == ["000000.parquet"]
    assert len(read_rollouts(policy.work / "rollouts").collect()) == 24


def test_verdicts_of_other_tuning_prompts_are_given_anew(training, monkeypatch):
    """Adopted work was judged as its own key said; a verdict that stands is not given a second time."""
    policy = training("float32")
    policy.candidates.consider(0, last=True)
    verdicts = sorted(policy.work.glob("candidates/*/verdict.json"))
    judged = json.loads(verdicts[0].read_text())
    rated = []
    rates = Sums.rates
    monkeypatch.setattr(Sums, "rates", lambda *given: (rated.append(given[1]), rates(*given))[1])
    with torch.no_grad():
        policy.model.lm_head.weight.zero_()  # the policy of a later iteration
    policy.candidates.judge_again()
    assert not rated

    verdicts[0].write_text(json.dumps({**judged, "pass_rate": 0.99}))
    other = training("float32", tuning_prompts=3)
    with torch.no_grad():
        other.model.lm_head.weight.zero_()
    other.candidates.judge_again()
    again = json.loads(verdicts[0].read_text())
    assert again["pass_rate"] != 0.99
    assert again["judging"] == other.candidates.judging != judged["judging"]
    assert len(rated) == 1
    assert rated[0].lm_head.weight.abs().sum() > 0, "the candidate's own weights"
    for change in ({"tuning_samples": 7}, {"seed": 5}, {"max_new_tokens": 3}):
        assert training("float32", **change).candidates.judging != judged["judging"]
    assert training("float32", learning_rate=0.5, evaluation_prompts=11).candidates.judging == judged["judging"]


def traces(model):
    """What forwards have left in the model for the optimizer and the balance."""
    loads = [router.load_E.clone() for router in model.routers().values()]
    return [attention.max_logit_H.clone() for attention in model.attentions()], loads


def test_computing_the_old_log_probabilities_leaves_no_trace(training):
    """Largest logits and experts' loads are those of a step's own forward: QK-Clip and the balance depend on them."""
    policy = training("bfloat16")
    source, _ = policy.sample(0)
    figures_of(policy, source, 0)
    left = traces(policy.model)
    for attention in policy.model.attentions():
        attention.reset_max_logit()
    for router in policy.model.routers().values():
        router.load_E.zero_()
    part = Minibatch.of(source.rows(0, ALONE), "sums")
    with autocast("bfloat16"):
        completion_logprobs(policy.model, part.turns)
    for mine, alone in zip(left, traces(policy.model), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, alone, strict=True))
    assert all(load_E.sum() > 0 for load_E in left[1])


def test_a_step_without_a_response_to_learn_from_is_empty(training, monkeypatch):
    policy = training("float32")
    monkeypatch.setattr(rollouts, "penalised", lambda scores, truncated, penalty: [1.0] * len(scores))
    source, figures = policy.sample(0)
    assert source.rows(0, ALONE) == {}
    assert figures["rows_trained"] == figures["informative"] == 0
    loss, figures = policy.loss(policy.model, {})
    loss.backward()
    assert figures["empty"] == 1.0
    assert float(loss) == 0.0
    assert all(p.grad is None or not p.grad.any() for p in policy.model.parameters())
