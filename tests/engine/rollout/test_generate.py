"""Sampling: log-probabilities that the full forward confirms, streams of their own, stops and limits."""

import numpy as np
import pytest
import torch

from engine.errors import UserError
from engine.model.model import K2Model
from engine.parallel.layout import Layout
from engine.parallel.mesh import laid_out, mesh
from engine.rollout.generate import _sample, generate, stream, sums_by_blocks
from tests.engine.parallel.ranks import together
from tests.engine.tiny import config

PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8], [1, 2, 3], [9], [1, 2, 3]]
STOP = 60


@pytest.fixture(scope="module")
def model():
    return K2Model(config()).eval()


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
@torch.no_grad()
def test_logprobs_are_those_of_the_full_forward_at_the_sampling_temperature(model, temperature):
    for prompt, done in zip(PROMPTS, generate(model, PROMPTS, 12, temperature, 3, STOP)):
        logits = model(torch.tensor([prompt + done.tokens]))[0, len(prompt) - 1 : -1]
        logprobs = (logits / (temperature or 1.0)).log_softmax(-1)
        expected = logprobs[range(len(done.tokens)), done.tokens]
        torch.testing.assert_close(torch.tensor(done.logprobs), expected, rtol=1e-4, atol=1e-4)
        if temperature == 0:
            assert logits.argmax(-1).tolist() == done.tokens


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_of_other_types_generate_too(dtype):
    done = generate(K2Model(config()).to(dtype), PROMPTS, 12, 0.0, 3, STOP)
    expected = generate(K2Model(config()), PROMPTS, 12, 0.0, 3, STOP)
    for one, other in zip(done, expected):
        assert one.logprobs[0] == pytest.approx(other.logprobs[0], abs=1e-4 if dtype == torch.float64 else 0.1)


def drawn_in_parts(rank):
    """What a rank of two gets that hold half of the experts each; the seeds differ, as roundings could."""
    with laid_out(Layout(ep=2)):
        part = K2Model(config(), part=mesh().part(config())).eval()
        return generate(part, PROMPTS, 12, 1.0, 3 + rank, STOP)


def test_ranks_with_parts_of_one_model_get_what_the_first_draws(model):
    first, second = together(2, drawn_in_parts)
    assert first == second
    assert [c.tokens for c in first] == [c.tokens for c in generate(model, PROMPTS, 12, 1.0, 3, STOP)]


def test_samples_are_keyed_by_seed_and_place_alone(model):
    many = generate(model, PROMPTS, 12, 1.0, 3, STOP)
    assert many == generate(model, PROMPTS, 12, 1.0, 3, STOP)
    assert [c.tokens for c in generate(model, PROMPTS[:1], 12, 1.0, 3, STOP)] == [many[0].tokens]
    assert many[0].tokens != many[2].tokens
    assert many[0].tokens != generate(model, PROMPTS, 12, 1.0, 4, STOP)[0].tokens
    assert generate(model, [], 12, 1.0, 3, STOP) == []


def test_a_completion_ends_with_its_stop_token_or_is_truncated(model):
    for done in generate(model, [[1]] * 200, 20, 1.5, 0, STOP):
        assert done.truncated == (done.tokens[-1] != STOP)
        assert STOP not in done.tokens[:-1]
        assert len(done.tokens) == len(done.logprobs)
        assert len(done.tokens) == 20 or not done.truncated
    assert any(not done.truncated for done in generate(model, [[1]] * 200, 20, 1.5, 0, STOP))


def test_sampling_follows_the_distribution():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]]).expand(20000, 4)
    draws = torch.from_numpy(np.random.Generator(np.random.PCG64(0)).random(20000))
    chosen, _ = _sample(logits, draws, 0.5)
    share = torch.bincount(chosen, minlength=4) / 20000
    torch.testing.assert_close(share, (logits[0] / 0.5).softmax(-1), rtol=0, atol=0.01)


def test_the_ends_of_the_unit_interval_are_tokens_too():
    chosen, _ = _sample(torch.zeros(2, 5), torch.tensor([0.0, 1 - 1e-16], dtype=torch.float64), 1.0)
    assert chosen.tolist() == [0, 4]


def test_a_stream_yields_what_generate_returns(model):
    done = generate(model, [[1, 2]], 15, 1.0, 5, STOP)[0]
    assert list(stream(model, [1, 2], 15, 1.0, 5, STOP)) == [t for t in done.tokens if t != STOP]


def test_mode_is_restored_and_nothing_recorded(model):
    model.train()
    generate(model, [[1]], 2, 1.0, 0, STOP)
    assert model.training
    assert model.attentions()[0].max_logit_H.max() == float("-inf")
    model.eval()


def test_what_exceeds_the_context_is_refused(model):
    with pytest.raises(UserError, match="prompt 1 has 60 tokens"):
        generate(model, [[1], [1] * 60], 5, 1.0, 0, STOP)
    with pytest.raises(UserError, match="prompt 0 is empty"):
        generate(model, [[]], 5, 1.0, 0, STOP)


@pytest.mark.parametrize("vocabulary", [1, 2, 7, 64, 100])
def test_sums_by_blocks_are_the_running_sums(vocabulary):
    """The way of GPUs, on the CPU: the same sums, up to rounding, and as long as the vocabulary."""
    shares = torch.rand(3, vocabulary, generator=torch.Generator().manual_seed(vocabulary), dtype=torch.float64)
    torch.testing.assert_close(sums_by_blocks(shares), shares.cumsum(-1))
