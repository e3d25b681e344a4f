"""The prepared decoder says what the full forward says of every row alone: ragged, dropped, few rows and many."""

import pytest
import torch

from engine.model.cache import LatentCache
from engine.model.decoder import Decoder
from engine.model.model import K2Model
from engine.model.parameters import config_from_parameters
from kernels.experts import FEW
from pipelines import graph
from tests.engine.tiny import DECODED, config

CASES = {
    **DECODED,
    "odd ranks": {"kv_lora_rank": 15, "q_lora_rank": 13, "qk_nope_head_dim": 7},
}
LENGTHS = (9, 1, 6, 4)
NEW = 7


def varied(model):
    """The model with gains and router biases that a mistake would show in; fresh ones are ones and zeros."""
    random = torch.Generator().manual_seed(1)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.ndim == 1 and ("norm" in name or "bias" in name):
            tensor.data += 0.2 * torch.randn(tensor.shape, generator=random)
    return model.eval()


def rows_of(lengths, vocabulary):
    return [
        torch.randint(0, vocabulary, (n + NEW,), generator=torch.Generator().manual_seed(i))
        for i, n in enumerate(lengths)
    ]


def read(model, rows, lengths, dtype=torch.float32):
    """The prompts read by the model itself, left-padded to the longest; the cache with room for what follows."""
    longest = max(lengths)
    ids = torch.stack([torch.cat((row.new_zeros(longest - n), row[:n])) for n, row in zip(lengths, rows)])
    starts = [longest - n for n in lengths]
    cache = LatentCache(model.config, len(lengths), longest + NEW, starts, dtype)
    model(ids, cache)
    return cache


def worst(model, lengths, dtype=torch.float32):
    """Largest difference of the decoder's logits from each row's own full forward."""
    rows = rows_of(lengths, model.config.vocab_size)
    cache = read(model, rows, lengths, dtype)
    decoder = Decoder(model, cache)
    decoded = torch.stack(
        [decoder.step(torch.stack([row[n + i] for n, row in zip(lengths, rows)])) for i in range(NEW)], 1
    )
    full = torch.stack([model(row[None])[0, n:] for n, row in zip(lengths, rows)])
    return float((decoded - full).abs().max())


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
@torch.inference_mode()
def test_ragged_rows_decode_to_the_logits_of_their_own_full_forward(changes):
    model = varied(K2Model(config(**{"initializer_range": 0.1} | changes), seed=4))
    assert worst(model, LENGTHS) <= 1e-5
    assert worst(model.double(), LENGTHS, torch.float64) <= 1e-12


@torch.inference_mode()
def test_the_laptop_profiles_model_decodes_to_its_full_forward():
    given = graph.parameters("laptop")
    model = varied(K2Model(config_from_parameters(given["pretrain"]["model"], 512, 64), seed=4))
    assert worst(model, [12] * 16) <= 1e-5


@pytest.mark.parametrize("rows", [1, FEW + 1], ids=["one row", "more than every expert is worth"])
@torch.inference_mode()
def test_any_number_of_rows_decodes_the_same(rows):
    assert worst(varied(K2Model(config(initializer_range=0.1), seed=4)), [3] * rows) <= 1e-5


@torch.inference_mode()
def test_rows_may_be_dropped_on_the_way():
    model = varied(K2Model(config(initializer_range=0.1), seed=4))
    rows = rows_of(LENGTHS, 61)
    cache = read(model, rows, LENGTHS)
    decoder = Decoder(model, cache)
    decoder.step(torch.stack([row[n] for n, row in zip(LENGTHS, rows)]))
    cache.select(torch.tensor([2, 0]))
    decoded = decoder.step(torch.stack([rows[b][LENGTHS[b] + 1] for b in (2, 0)]))
    for place, b in enumerate((2, 0)):
        assert (decoded[place] - model(rows[b][None, : LENGTHS[b] + 2])[0, -1]).abs().max() <= 1e-5


def test_nothing_is_recorded_and_no_gradient_kept_while_training():
    model = K2Model(config()).train()
    cache = LatentCache(model.config, 2, 1)
    with torch.inference_mode():
        Decoder(model, cache).step(torch.tensor([1, 2]))
    assert all(attention.max_logit_H.max() == float("-inf") for attention in model.attentions())
    assert all(int(router.load_E.sum()) == 0 for router in model.routers().values())


@torch.inference_mode()
def test_a_full_cache_is_refused():
    model = K2Model(config())
    decoder = Decoder(model, LatentCache(model.config, 1, 1))
    decoder.step(torch.tensor([1]))
    with pytest.raises(ValueError, match="cache of 1 slots cannot take token 2"):
        decoder.step(torch.tensor([1]))
