"""Log-probabilities through the cache against the plain forward: values, gradients, and the sampler's own."""

from itertools import pairwise

import pytest
import torch

from engine.rollout import teacher
from engine.rollout.generate import generate
from engine.rollout.teacher import SIMILAR, Turns, alike, completion_logprobs
from engine.training.padded import pad, response_logprobs
from tests.engine.tiny import recorded
from tests.nodes import toy

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12]]
WHICH = [0, 1, 0, 1, 1]
COMPLETIONS = [[20, 21], [22], [23, 24, 25, 26], [20, 21], [27, 28, 29]]


def turns(temperature):
    return Turns.of(PROMPTS, WHICH, COMPLETIONS, temperature)


def plain(model, temperature):
    rows = [([*PROMPTS[w], *c], [0] * len(PROMPTS[w]) + [1] * len(c)) for w, c in zip(WHICH, COMPLETIONS)]
    return response_logprobs(model, pad(rows), temperature)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_values_and_gradients_are_those_of_the_plain_forward(temperature, parts, monkeypatch):
    monkeypatch.setattr(teacher, "LEAST_TOKENS", 10_000 if parts == 1 else 1)
    assert len(alike([len(prompt) for prompt in PROMPTS])) == parts
    weights = torch.tensor([1.0, -0.5, 2.0, 0.3, -1.0])
    gradients = []
    for logprobs in (plain, lambda model, t: completion_logprobs(model, turns(t))):
        model = toy.model().train()
        values = logprobs(model, temperature)
        (weights * values).sum().backward()
        gradients.append((values.detach(), {name: p.grad for name, p in model.named_parameters()}))
    torch.testing.assert_close(gradients[0][0], gradients[1][0], atol=1e-5, rtol=0)
    for name, gradient in gradients[0][1].items():
        torch.testing.assert_close(gradient, gradients[1][1][name], atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("least", [1, 40, 10_000])
def test_every_prompt_is_in_one_part_with_others_of_its_length(least, monkeypatch):
    monkeypatch.setattr(teacher, "LEAST_TOKENS", least)
    lengths = torch.randint(1, 90, (50,), generator=torch.Generator().manual_seed(least)).tolist()
    parts = alike(lengths)
    assert sorted(number for part in parts for number in part.tolist()) == list(range(50))
    assert len(parts) == 1 if least == 10_000 else len(parts) > 3
    for part, after in pairwise(parts):
        longest = max(lengths[number] for number in part)
        assert len(part) * longest >= least, "no part but the last is smaller"
        assert max(lengths[number] for number in after) < SIMILAR * longest
        if least == 1:
            assert min(lengths[number] for number in part) >= SIMILAR * longest


def test_the_sampler_has_the_same_log_probabilities():
    model = toy.model()
    drawn = generate(model, [PROMPTS[w] for w in WHICH], 4, 0.8, 3, 7)
    again = completion_logprobs(model, Turns.of(PROMPTS, WHICH, [one.tokens for one in drawn], 0.8))
    sampled = torch.tensor([sum(one.logprobs) for one in drawn])
    torch.testing.assert_close(again.detach(), sampled, atol=1e-5, rtol=0)


def test_completions_of_one_token_need_no_second_forward():
    model = toy.model().eval()
    alone = completion_logprobs(model, Turns.of(PROMPTS, [0], [[20]], 1.0))
    torch.testing.assert_close(alone, plain_of(model, [5, 6, 7], 20), atol=1e-5, rtol=0)


def plain_of(model, prompt, token):
    return model(torch.tensor([prompt]))[0, -1].log_softmax(-1)[token][None]


def test_heads_maxima_are_recorded_for_qk_clip():
    model = toy.model().train()
    completion_logprobs(model, turns(1.0))
    cached = [attention.max_logit_H.clone() for attention in model.attentions()]
    for attention in model.attentions():
        attention.reset_max_logit()
    plain(model, 1.0)
    for seen, exact in zip(cached, (attention.max_logit_H for attention in model.attentions())):
        torch.testing.assert_close(seen, exact, atol=1e-5, rtol=0)


def test_padding_of_prompts_and_completions_leaves_no_trace():
    model = toy.model().train()
    model.embed_tokens.weight.data[0] *= 1000  # the padding's token
    completion_logprobs(model, turns(1.0))
    maxima, loads = recorded(model)
    for prompt in range(len(PROMPTS)):  # alone no prompt is padded; and of completions only those of one length
        for length in range(1, 5):
            completions = [c for w, c in zip(WHICH, COMPLETIONS) if w == prompt and len(c) == length]
            if completions:
                of_prompt = Turns.of(PROMPTS[prompt : prompt + 1], [0] * len(completions), completions, 1.0)
                completion_logprobs(model, of_prompt)
    alone, _ = recorded(model)
    torch.testing.assert_close(maxima, alone, atol=1e-4, rtol=1e-5)
    tokens = sum(map(len, PROMPTS)) + sum(len(c) - 1 for c in COMPLETIONS)
    assert [int(load_E.sum()) for load_E in loads] == [2 * tokens]


def test_empty_tokens_are_refused():
    with pytest.raises(ValueError, match="at least one token"):
        Turns.of([[]], [0], [[1]], 1.0)
    with pytest.raises(ValueError, match="at least one token"):
        Turns.of([[1]], [0], [[]], 1.0)
