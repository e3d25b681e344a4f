"""Why DeepSpeed is no backend of kind: muon: its Muon has another scale, its experts no router bias that moves."""

import os

import pytest
import torch

from engine.optim.muon import Orthogonaliser, muon_
from tests.deepspeed.conftest import in_ranks

pytestmark = pytest.mark.slow

SHAPES = [(64, 16), (16, 64), (48, 48)]
K2_RATE = 0.001
"""K2's rate of the router biases (docs/k2-facts.md)."""


def updates(rank):
    """The updates of some gradients by DeepSpeed's Muon, and by ours."""
    os.environ["TORCHDYNAMO_DISABLE"] = "1"  # else each shape is compiled
    from deepspeed.runtime.zero.muon.original_muon import muon_update

    pairs = []
    for shape in SHAPES:
        gradient = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        theirs = muon_update(gradient.clone(), torch.zeros(shape), nesterov=False, beta=0.0, ns_method="standard")
        moved, how = {"w": torch.zeros(shape)}, Orthogonaliser(dtype=torch.float32)
        muon_(moved, {"w": torch.zeros(shape)}, {"w": gradient}, how, lr=1.0, decay=0.0, mu=0.0, nesterov=False)
        pairs.append((theirs.float().tolist(), (-moved["w"]).tolist()))
    return pairs


def test_its_muon_points_where_ours_does_and_is_as_long_as_the_shape_says():
    """K2's updates have an RMS of 0.2, AdamW's, whatever the shape; Keller Jordan's have the shape's own."""
    ((*pairs,),) = in_ranks(1, updates)
    theirs, ours = zip(*((torch.tensor(a), torch.tensor(b)) for a, b in pairs), strict=True)
    for a, b in zip(theirs, ours, strict=True):
        assert float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0)) > 0.99
    rms = [[float(update.square().mean().sqrt()) for update in of] for of in (theirs, ours)]
    assert rms[1] == pytest.approx([0.2] * 3, rel=0.15)
    assert max(rms[0]) > 1.9 * min(rms[0]), "one learning rate does not fit all of its matrices"


def refused(rank):
    """The refusal of a router bias that follows the load."""
    from deepspeed.module_inject.auto_ep_config import parse_autoep_config

    with pytest.raises(ValueError, match="load_balance_coeff") as error:
        parse_autoep_config({"enabled": True, "preset_model": "deepseek_v3", "load_balance_coeff": K2_RATE})
    return str(error.value)


def test_its_expert_parallelism_refuses_to_move_the_router_bias():
    (said,) = in_ranks(1, refused)
    assert "not support" in said
