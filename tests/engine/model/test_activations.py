"""Switches of memory: the same bits forward and backward, and the bytes that the table says, measured."""

import itertools

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from engine.model.activations import AUTOCAST, CPU_BLOCK, FP8_BLOCK, FP32, bytes_per_token
from engine.model.model import K2Model
from engine.model.rope import rotation
from engine.parallel.layout import Layout
from engine.parallel.mesh import laid_out, mesh
from engine.training.memory import memory_of
from kernels import fp8_rows, latent_attention
from kernels.kept import Memory
from kernels.precision import product_type
from tests.engine.model.live import LENGTH, ROWS, passed
from tests.engine.parallel.ranks import together
from tests.engine.tiny import config, recorded

PARTS = ("norm", "swiglu", "mla_up")
EVERY = [parts for n in range(4) for parts in itertools.combinations(PARTS, n)]
MASK = 4 * 64 * 64
"""Bytes that the CPU's attention keeps for any number of tokens."""


@pytest.fixture(params=["blockwise", "fused"])
def attention(request, monkeypatch):
    """Attention as on a CPU, and as on a GPU without Triton, whose fused op a CPU has too."""
    if request.param == "fused":
        monkeypatch.setattr(latent_attention, "_blockwise", lambda *given: latent_attention._fused(*given[:7]))


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "autocast"])
@pytest.mark.parametrize("q_lora_rank", [24, None])
def test_recomputation_changes_no_bit(autocast, q_lora_rank, attention):
    model = K2Model(config(q_lora_rank=q_lora_rank), 1)
    plain = passed(model, None, autocast)
    for parts in EVERY:
        for (y, gradients, _), (same_y, same_gradients, _) in zip(
            plain, passed(model, Memory(frozenset(parts)), autocast), strict=True
        ):
            assert torch.equal(y, same_y), parts
            assert all(map(torch.equal, gradients, same_gradients)), parts


@pytest.mark.parametrize("types", [FP32, AUTOCAST], ids=["fp32", "autocast"])
@pytest.mark.parametrize("changes", [{}, {"q_lora_rank": None}, {"n_shared_experts": 2, "moe_intermediate_size": 80}])
def test_the_bytes_are_those_of_the_table(types, changes):
    if types is AUTOCAST and product_type(torch.bfloat16, "cpu") != torch.bfloat16:
        pytest.skip("this processor multiplies no bf16, and keeps its operands in fp32")
    model = K2Model(config(**changes), 1)
    for parts in EVERY:
        for fp8 in (False, True):
            for layer, (_, _, kept) in enumerate(passed(model, Memory(frozenset(parts), fp8), types is AUTOCAST)):
                expected = bytes_per_token(model.config, layer, types, LENGTH, recompute=parts, fp8=fp8, fused=False)
                expected += MASK / (ROWS * LENGTH)
                assert kept == pytest.approx(expected, rel=0.005), (parts, fp8, layer)


ONE_LAYER = config(first_k_dense_replace=0, num_hidden_layers=1)


def kept_in_parts(rank, layout):
    """The bytes that this rank's MoE block keeps of its tokens."""
    with laid_out(layout):
        model = K2Model(ONE_LAYER, 1, part=mesh().part(ONE_LAYER))
        ((_, _, kept),) = passed(model, memory_of(layout, torch.device("cpu")))
        return kept


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout", [Layout(ep=2), Layout(ep=2, recompute=("norm", "swiglu", "mla_up"), fp8_storage=True)], ids=str
)
def test_the_bytes_of_experts_in_parts_are_those_of_the_table(layout):
    """On the mean of the ranks, since one has more rows than the other."""
    kept = together(2, kept_in_parts, layout)
    switches = {"recompute": layout.recompute, "fp8": layout.fp8_storage}
    expected = bytes_per_token(ONE_LAYER, 0, FP32, LENGTH, fused=False, ep=2, **switches)
    assert kept[0] != kept[1]
    assert sum(kept) / 2 - MASK / (ROWS * LENGTH) == pytest.approx(expected, rel=0.005)


def test_every_part_drops_something_and_without_a_switch_nothing_is_dropped(attention):
    model = K2Model(config(), 1)
    plain = [kept for *_, kept in passed(model, None)]
    assert [kept for *_, kept in passed(model, Memory())] == plain
    for part in PARTS:
        for (*_, less), all_ in zip(passed(model, Memory(frozenset([part]))), plain, strict=True):
            assert less < 0.95 * all_, part


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "autocast"])
@pytest.mark.parametrize("parts", [(), ("swiglu",), PARTS])
def test_fp8_storage_leaves_outputs_alone_and_gradients_within_five_percent(parts, autocast):
    model = K2Model(config(), 1)
    plain = passed(model, None, autocast)
    compressed = passed(model, Memory(frozenset(parts), fp8=True), autocast)
    differs = False
    for (y, gradients, _), (same_y, close, _) in zip(plain, compressed, strict=True):
        assert torch.equal(y, same_y)
        for exact, gradient in zip(gradients, close, strict=True):
            assert (gradient - exact).norm() <= 0.05 * exact.norm()
            differs |= not torch.equal(gradient, exact)
    assert differs


def test_the_table_has_the_kernels_blocks():
    assert FP8_BLOCK == fp8_rows.BLOCK
    assert CPU_BLOCK == latent_attention.BLOCK


@pytest.mark.parametrize("memory", [None, Memory(frozenset(PARTS))], ids=["kept", "remade"])
@pytest.mark.parametrize("whole_blocks", [False, True])
def test_a_recomputed_token_counts_once(memory, whole_blocks):
    """In the experts' loads and in S_max; the weights change before the backward, so that a second count would show."""
    model = K2Model(config(), 1)
    model.train()
    x = torch.randn(ROWS, LENGTH, model.config.hidden_size).requires_grad_()
    turn = rotation(torch.arange(LENGTH), model.frequencies_P, model.magnitude)

    def forward():
        y = x
        for block in model.blocks:
            y = (
                checkpoint(block, y, turn, None, None, use_reentrant=False)
                if whole_blocks
                else block(y, turn, None, None)
            )
        return y

    forward().sum().backward()
    maxima, loads = recorded(model)
    assert int(loads.sum()) == 2 * ROWS * LENGTH * model.config.num_experts_per_tok
    model.keep(memory)
    y = forward()
    for attention in model.attentions():
        attention.kv_b_proj.weight.data.mul_(3)
    y.sum().backward()
    again = recorded(model)
    assert torch.equal(again[0], maxima)
    assert torch.equal(again[1], loads)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.parametrize("parts", [(), PARTS])
@pytest.mark.parametrize("fp8", [False, True])
def test_a_gpu_allocates_the_bytes_of_the_table(parts, fp8):
    sizes = config(
        hidden_size=1024, moe_intermediate_size=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128
    )
    rows, length, device = 4, 1024, torch.device("cuda")
    with device:
        model = K2Model(sizes, 1)
        turn = rotation(torch.arange(length), model.frequencies_P, model.magnitude)
    model.keep(Memory(frozenset(parts), fp8))
    model.train()
    for layer, block in enumerate(model.blocks):
        x = torch.randn(rows, length, sizes.hidden_size, device=device)
        before = torch.cuda.memory_allocated()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            y = block(x, turn, None, None)
        kept = torch.cuda.memory_allocated() - before + x.nbytes - y.nbytes
        expected = bytes_per_token(sizes, layer, AUTOCAST, length, recompute=parts, fp8=fp8)
        assert kept == pytest.approx(expected * rows * length, rel=0.02)
        y.float().square().mean().backward()
        model.zero_grad()
