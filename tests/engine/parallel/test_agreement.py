"""One changed bit of one tensor on one rank stops all ranks, on every layout; and sums of bits see every bit."""

import pytest
import torch

from engine.errors import UserError
from engine.model.model import K2Model
from engine.optim.muonclip import MuonClip
from engine.parallel.agreement import bit_sums, require_equal
from engine.parallel.layout import WHOLE, Layout
from engine.parallel.mesh import laid_out, mesh
from engine.training.state import TrainState
from tests.engine.parallel.ranks import together
from tests.engine.tiny import config

pytestmark = pytest.mark.slow

EXPERTS = "model:layers.1.mlp.experts.down_proj"
MOMENTUM = "optimizer:muon/layers.2.mlp.experts.down_proj"


def said(rank, layout, planted):
    """What a rank is told when a bit was changed of a tensor on one rank, by tensor and rank; "" where nothing is."""
    with laid_out(layout):
        model = K2Model(config(), part=mesh().part(config()))
        state = TrainState(model, MuonClip(model, 0.02))
        answers = []
        for name, odd in planted:
            tensors = {own: tensor.clone() for own, tensor in state.tensors().items()}
            if rank == odd:
                tensors[name].view(-1).view(torch.uint8)[1] ^= 1
            try:
                require_equal(tensors, state.placement, "after step 3")
                answers.append("")
            except UserError as error:
                answers.append(str(error).partition(": the ranks")[0])
        return answers


@pytest.mark.parametrize(
    ("layout", "planted"),
    [
        (WHOLE, {("model:norm.weight", 3): 0, (EXPERTS, 1): 0}),
        (Layout(ep=2), {("model:embed_tokens.weight", 1): 0, (EXPERTS, 3): 1, ("optimizer:clipped", 2): 0}),
        (
            Layout(pp=2),
            {("model:layers.2.self_attn.o_proj.weight", 3): 2, (MOMENTUM, 3): 2},
        ),
    ],
    ids=str,
)
def test_a_changed_bit_is_refused_on_every_rank_by_name_of_tensor_and_rank(layout, planted):
    cases = [("nothing", -1), *planted]
    expected = [""] + [f"{name} of rank {odd} differs from that of rank {first} after step 3"
                       for (name, odd), first in planted.items()]  # fmt: skip
    assert together(4, said, layout, cases) == [expected] * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool], ids=str)
@pytest.mark.parametrize("size", [1, 7, 8, 64])
def test_every_bit_changes_the_first_sum(dtype, size):
    tensor = torch.randn(size, generator=torch.Generator().manual_seed(size)).gt(0).to(dtype)
    before = bit_sums(tensor)
    assert torch.equal(before, bit_sums(tensor.clone()))
    octets = tensor.view(torch.uint8)
    for place in range(len(octets)):
        for bit in range(8):
            octets[place] ^= 1 << bit
            assert bit_sums(tensor)[0] != before[0]
            octets[place] ^= 1 << bit


def test_amounts_that_cancel_in_one_sum_are_seen_in_the_other():
    tensor = torch.randn(64, generator=torch.Generator().manual_seed(1))
    before = bit_sums(tensor)
    bits = tensor.view(torch.int32)
    bits[3] += 1
    bits[21] -= 1  # as where two roundings differ
    after = bit_sums(tensor)
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_a_view_that_begins_within_a_word_has_the_sums_of_its_copy():
    tensor = torch.randn(65, generator=torch.Generator().manual_seed(2))
    assert torch.equal(bit_sums(tensor[1:]), bit_sums(tensor[1:].clone()))
    assert torch.equal(bit_sums(tensor.view(13, 5).T), bit_sums(tensor.view(13, 5).T.contiguous()))
