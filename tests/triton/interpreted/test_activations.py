"""What blocks keep for their backwards where attention is Triton's: the table's bytes, and the same bits remade."""

import itertools

import pytest
import torch

from engine.model.activations import FP32, bytes_per_token
from engine.model.model import K2Model
from kernels import choice
from kernels.kept import Memory
from tests.engine.model.live import LENGTH, passed
from tests.engine.tiny import config

PARTS = ("norm", "swiglu", "mla_up")
WIDTHS = {"qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 32}


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    monkeypatch.setattr(choice, "INTERPRETED", {"cpu"})
    with choice.strict():
        yield


@pytest.mark.parametrize("q_lora_rank", [24, None])
def test_the_bytes_are_those_of_the_table_and_no_bit_changes(q_lora_rank):
    model = K2Model(config(q_lora_rank=q_lora_rank, num_hidden_layers=2, **WIDTHS), 1)
    plain = passed(model, None)
    for parts in (parts for n in range(4) for parts in itertools.combinations(PARTS, n)):
        # Triton's interpreter leaves cycles that hold the arguments of a launch
        for layer, (y, gradients, kept) in enumerate(passed(model, Memory(frozenset(parts)), cycles=True)):
            assert kept == pytest.approx(bytes_per_token(model.config, layer, FP32, LENGTH, recompute=parts), rel=0.005)
            assert torch.equal(y, plain[layer][0])
            assert all(map(torch.equal, gradients, plain[layer][1]))
