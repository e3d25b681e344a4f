"""What blocks keep for their backwards where a GPU's kernels compute: the table's bytes, and the same bits remade."""

import pytest
import torch

from engine.model.activations import FP32, bytes_per_token
from engine.model.model import K2Model
from kernels import choice
from kernels.kept import Memory
from tests.engine.model.live import passed
from tests.engine.tiny import config

PARTS = ("norm", "swiglu", "mla_up")
SIZE = 2, 18
MODEL = config(num_hidden_layers=2, qk_nope_head_dim=16, qk_rope_head_dim=16, v_head_dim=32)


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    monkeypatch.setattr(choice, "INTERPRETED", {"cpu"})
    with choice.strict():
        yield


@pytest.fixture(scope="module")
def model():
    return K2Model(MODEL, 1)


@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize("parts", [(), PARTS], ids=str)
def test_the_bytes_are_those_of_the_table_and_no_bit_changes(model, parts, fp8):
    # Triton's interpreter leaves cycles that hold the arguments of a launch
    plain = passed(model, None, size=SIZE)
    for layer, (y, gradients, kept) in enumerate(passed(model, Memory(frozenset(parts), fp8), size=SIZE, cycles=True)):
        expected = bytes_per_token(MODEL, layer, FP32, SIZE[1], recompute=parts, fp8=fp8)
        assert kept == pytest.approx(expected, rel=0.005)
        assert torch.equal(y, plain[layer][0])
        exact = torch.cat([gradient.flatten() for gradient in plain[layer][1]])
        error = (torch.cat([gradient.flatten() for gradient in gradients]) - exact).norm() / exact.norm()
        assert error <= (0.05 if fp8 else 0)
