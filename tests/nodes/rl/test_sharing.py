"""Ranks share the sampling: each draws its own part, and all train on what one process would draw."""

from dataclasses import replace

import pytest

from engine.model.model import K2Model
from engine.parallel import data
from engine.parallel.layout import Layout
from engine.parallel.mesh import laid_out, mesh
from engine.rollout import shared
from engine.rollout.shared import sharing
from engine.training.batches import share
from engine.training.numerics import autocast
from nodes.rl import policy, rollouts
from nodes.rl.outcome import outcome
from nodes.rl.policy import PolicyTraining
from nodes.rl.rewards import families_of
from nodes.rl.tables import read_rollouts
from tests.engine.parallel.ranks import together
from tests.nodes import toy
from tests.nodes.rl.test_policy import NO_PTX
from tests.nodes.rl.test_rollouts import parameters

TOOLS = {"tasks": 3, "samples": 2, "max_new_tokens": 6, "tuning_tasks": 2, "evaluation_tasks": 2}


def half_right(scores, truncated, penalty):
    """Rewards that differ within a prompt, so that all of them are informative."""
    return [float(number % 2) for number in range(len(scores))]


def made(root, dtype, prompts=5):
    """One iteration's training of both families on a toy model, and its settings."""
    tokenizer = toy.tokenizer(root)
    p = parameters(prompts=prompts, iterations=1, inner_steps=1, max_new_tokens=4, ptx=NO_PTX, dtype=dtype)
    p = p.model_copy(update={"tools": p.tools.model_copy(update=TOOLS)})
    model = K2Model(replace(toy.model().config, max_position_embeddings=4096), 0)
    families = families_of(tokenizer, model.config, toy.tasks().lazy(), p)
    return PolicyTraining(model, families, p, ptx=None, natural=None, work=root / "work"), p


def sampled(rank, root, dtype):
    """What a rank draws in an iteration: prompts read for it, old log-probabilities, rows, figures, verdicts."""
    drawn, olds = [], []
    generate, whole_responses = shared.generate, policy.whole_responses
    shared.generate = lambda model, prompts, *more: (drawn.append(len(prompts)), generate(model, prompts, *more))[1]
    rollouts.penalised = half_right

    def counted(model, part, logprobs):
        olds.append(len(part.turns.ids_TW))
        return whole_responses(model, part, logprobs)

    policy.whole_responses = counted
    training, p = made(root / str(rank), dtype)
    source, figures = training.sample(0)
    of_sampling = sum(drawn)
    training.candidates.consider(0)  # after which all that the first rank wrote is there
    rows = list(read_rollouts(training.work / "rollouts").collect().iter_rows(named=True))
    judged = training.candidates.judged()
    measured = outcome(training.model, training.model, training.families, p)
    turns = [len(tensor) for name, tensor in source.minibatches[0].items() if name.endswith("/which")]
    return of_sampling, sum(olds), sum(turns), rows, figures, (judged, measured)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_each_rank_draws_a_part_and_all_have_what_one_process_draws(dtype, tmp_path):
    (alone,) = together(1, sampled, tmp_path / "one", dtype)
    ranks = together(2, sampled, tmp_path / "two", dtype)
    draws, olds, turns, rows, figures, verdicts = alone
    assert sum(rank[0] for rank in ranks) == draws, "no prompt is read twice"
    assert max(rank[0] for rank in ranks) < 0.7 * draws
    assert sum(rank[1] for rank in ranks) == olds == (turns if dtype == "bfloat16" else 0)
    for _, _, own, same_rows, same_figures, same_verdicts in ranks:
        assert 0 < own < turns
        assert len(same_rows) == len(rows) == 5 * 4 + 3 * 2
        for here, there in zip(same_rows, rows, strict=True):
            assert here.pop("logprob") == pytest.approx(there["logprob"], abs=1e-4)
            assert here == {name: value for name, value in there.items() if name != "logprob"}
        assert same_figures == pytest.approx(figures, abs=1e-5)
        assert same_verdicts == verdicts


def sampler_gap(rank, root):
    """The figure of a step's loss on a rank's share of one prompt's responses."""
    rollouts.penalised = half_right
    training, _ = made(root / str(rank), "bfloat16", prompts=1)
    source, _ = training.sample(0)
    rows = mesh().rows
    (batch,) = share(source.rows(0, rows), rows.size, rows, training.model.device)
    training.model.train()
    with autocast("bfloat16"):
        _, figures = training.loss(training.model, batch)
    return float(figures["sampler_gap"])


@pytest.mark.slow
def test_the_samplers_gap_is_a_mean_over_all_responses_also_where_a_rank_has_none(tmp_path):
    (alone,) = together(1, sampler_gap, tmp_path / "one")
    assert alone > 0
    assert together(2, sampler_gap, tmp_path / "two") == [pytest.approx(2 * alone), 0]  # ranks are averaged


def cut(rank):
    with laid_out(Layout(ep=2)):
        within = sharing()
    return within, sharing()


@pytest.mark.slow
def test_ranks_that_hold_parts_of_one_model_draw_everything_together():
    assert together(2, cut) == [(data.ALONE, data.Ranks(rank, 2)) for rank in range(2)]


def test_a_process_alone_draws_the_same_bits_as_ever():
    """The share of one is all, numbered from 0."""
    model, prompts = toy.model(), [[5, 6], [5, 6], [7]]
    one = shared.generate_shared(model, prompts, 6, 1.0, 3, 2)
    assert one == shared.generate(model, prompts, 6, 1.0, 3, 2)
    assert shared.generate(model, prompts[1:], 6, 1.0, 3, 2, None, 1)[0].tokens == one[1].tokens
