"""ZeRO-1 on real gloo ranks: the same bits as one process that holds all, from the bytes that the formula says."""

import os
import signal
import time

import pytest
import torch

from engine.errors import UserError
from engine.model.model import K2Model
from engine.optim.groups import is_muon
from engine.optim.muonclip import MuonClip, matrix_counts
from engine.optim.owned import Circle
from engine.parallel import data
from engine.parallel.layout import Layout
from engine.parallel.mesh import laid_out, mesh
from engine.parallel.placement import held, is_expert
from engine.parallel.traffic import WEIGHTS, counted_traffic
from engine.training.language import make_optimizer
from engine.training.settings import OptimizerSettings
from engine.training.state import TrainState
from tests.engine.parallel.ranks import together
from tests.engine.tiny import config

pytestmark = pytest.mark.slow

STEPS, TAU, CLIP = 3, 4.0, 0.5
ALL, CUT = Layout(zero=1), Layout(ep=2, zero=1)
SETTINGS = OptimizerSettings(
    weight_decay=0.1, momentum=0.95, tau=TAU, adamw_lr_factor=1.0, newton_schulz_dtype="float32", per_head=True
)
OF_LAST = "layers.1.post_attention_layernorm.weight"
"""The weight that only the last rank has a gradient of."""


def rule_of(adamw):
    return (lambda *_: False) if adamw else is_muon


def optimizer_of(model, per_head=False, adamw=False, **settings):
    wide = torch.promote_types(next(model.parameters()).dtype, torch.float32)
    return MuonClip(model, 0.02, tau=TAU, ns_dtype=wide, per_head=per_head, is_muon=rule_of(adamw), **settings)


def gradients_of(step):
    """A gradient for each weight of the whole model, whose sums are exact in any order; expert 1's is zero."""
    generator = torch.Generator().manual_seed(step)
    named = dict(K2Model(config(), seed=None).named_parameters())
    out = {name: (torch.randn(p.shape, generator=generator) * 8).round() / 8 for name, p in named.items()}
    for name, gradient in out.items():
        if is_expert(name):
            gradient[1] = 0
    return out


def addend(gradient, number, parts, seed):
    """What one of `parts` ranks has of a sum: the others' are drawn, the first has what is missing."""
    generator = torch.Generator().manual_seed(seed)
    others = [(torch.randn(gradient.shape, generator=generator) * 4).round() / 4 for _ in range(parts - 1)]
    return others[number - 1] if number else gradient - sum(others, torch.zeros_like(gradient))


def record(model):
    """Leave logits as after a forward: head 0 of the odd layers is over τ, the others are not."""
    for block in model.blocks:
        block.self_attn.max_logit_H = torch.tensor([TAU * (1.5 if block.layer % 2 else 0.5), 1.0])


def reference(dtype, per_head=False, adamw=False):
    """The tensors of one process after all steps, and the rows."""
    model = K2Model(config()).to(dtype)
    optimizer, rows = optimizer_of(model, per_head, adamw), []
    for step in range(STEPS):
        gradients = gradients_of(step)
        for name, parameter in model.named_parameters():
            parameter.grad = gradients[name].to(dtype) * CLIP
        record(model)
        rows.append(optimizer.step())
        optimizer.zero_grad()
    return TrainState(model, optimizer).tensors(), rows


def owned_state(dtype, per_head=False, adamw=False):
    """The state of a rank of the mesh that is set."""
    model = K2Model(config(), part=mesh().part(config())).to(dtype)
    counts = matrix_counts(K2Model(config()), rule_of(adamw), per_head)
    return TrainState(model, optimizer_of(model, per_head, adamw, zero=True, counts=counts))


def take_step(state, dtype, step):
    """One step of a rank from its addends of the gradients; the norm and the row."""
    part, place, grid, rows = state.model.part, mesh().coordinates(), mesh().grid, mesh().rows
    gradients = gradients_of(step)
    for seed, (name, parameter) in enumerate(state.model.named_parameters()):
        number, parts = (place["dp"], grid.dp) if is_expert(name) else (rows.rank, rows.size)
        own = addend(gradients[name], number, parts, seed)
        if part is not None and is_expert(name):
            own = own[part.experts.start : part.experts.stop]
        parameter.grad = own.to(dtype)
        if name == OF_LAST:
            parameter.grad = gradients[name].to(dtype) if rows.rank == rows.size - 1 else None
    record(state.model)
    state.gradients.reduce_()
    norm = float(state.gradients.norm())
    state.gradients.clip_(torch.tensor(CLIP))
    row = state.optimizer.step()
    state.optimizer.zero_grad()
    return norm, row


def odd_ones(state, whole, rank):
    """The names of a rank's tensors that are not what its placement says of the whole ones."""
    tensors, odd = state.tensors(), []
    for name, tensor in whole.items():
        piece = held(state.placement(name), tuple(tensor.shape), mesh().grid, rank)
        if piece is None or name not in tensors:
            odd += [name] * ((piece is None) != (name not in tensors))
            continue
        ends = zip(piece.offsets, piece.sizes, strict=True)
        expected = tensor[tuple(slice(start, start + size) for start, size in ends)]
        odd += [name] * (not torch.equal(tensors[name], expected))
    return odd + sorted(tensors.keys() - whole.keys())


def owned(rank, layout, dtype, per_head, adamw):
    """What is odd on a rank after all steps; its norms and rows; the bytes of its state and those of the plan."""
    whole, _ = reference(dtype, per_head, adamw)
    with laid_out(layout):
        state = owned_state(dtype, per_head, adamw)
        made = [take_step(state, dtype, step) for step in range(STEPS)]
        size = sum(
            tensor.nbytes
            for name, tensor in state.optimizer.state_dict().items()
            if name.startswith(("muon/", "master/")) or name.endswith(("exp_avg", "exp_avg_sq"))
        )
        return odd_ones(state, whole, rank), made, size, state.optimizer.owned.ownership.loads[mesh().rows.rank].state


@pytest.mark.parametrize(
    ("layout", "size", "dtype", "per_head", "adamw"),
    [
        pytest.param(ALL, 2, torch.float32, False, False, id="dp2"),
        pytest.param(ALL, 2, torch.float64, True, False, id="dp2 fp64 per head"),
        pytest.param(ALL, 4, torch.bfloat16, True, False, id="dp4 bf16 per head"),
        pytest.param(CUT, 2, torch.float32, True, False, id="ep2 dp1 per head"),
        pytest.param(CUT, 4, torch.float64, False, False, id="ep2 dp2 fp64"),
        pytest.param(CUT, 4, torch.bfloat16, False, False, id="ep2 dp2 bf16"),
        pytest.param(CUT, 4, torch.float32, False, True, id="ep2 dp2 adamw"),
    ],
)
def test_owners_make_the_bits_of_one_process_that_holds_all(layout, size, dtype, per_head, adamw):
    _, rows = reference(dtype, per_head, adamw)
    expected = [
        sum(float(g.double().square().sum()) for g in gradients_of(step).values()) ** 0.5 for step in range(STEPS)
    ]
    for odd, made, nbytes, planned in together(size, owned, layout, dtype, per_head, adamw):
        assert odd == []
        norms, own_rows = zip(*made, strict=True)
        assert norms == pytest.approx(expected, rel=1e-2 if dtype == torch.bfloat16 else 1e-6)
        assert list(own_rows) == rows, "the same heads clipped and the same experts idle"
        assert nbytes == planned * (2 if dtype == torch.float64 else 1)
    assert rows[0]["clipped_heads"] == 1


def forgetful(rank, layout):
    """How many weights are odd where rank 1 moves its weights and keeps them to itself."""
    whole, _ = reference(torch.float32)
    with laid_out(layout):
        state = owned_state(torch.float32)
        before = {name: p.detach().clone() for name, p in state.model.named_parameters()}
        given = Circle._from_owners

        def stale(circle, weights):
            given(circle, {name: before[name] for name in weights} if rank == 1 else weights)

        Circle._from_owners = stale
        take_step(state, torch.float32, 0)
        return len(odd_ones(state, whole, rank))


def test_an_owner_that_forgets_to_give_its_weights_is_noticed():
    assert min(together(2, forgetful, ALL)) > 10


def traffic_of(rank, layout, dtype, bucket):
    """The bytes that a rank sends in a step, counted and by the formula."""
    data.BUCKET = bucket
    with laid_out(layout):
        state = owned_state(dtype)
        with counted_traffic() as traffic:
            take_step(state, dtype, 0)
        place, each = mesh().coordinates(), torch.empty((), dtype=dtype).element_size()
        formula = state.optimizer.owned.ownership.sent(place["dp"], place["ep"], each, each)
        return {kind: traffic.crossed[kind] for kind in formula}, formula


@pytest.mark.parametrize(
    ("layout", "size", "dtype", "bucket"),
    [
        pytest.param(ALL, 2, torch.bfloat16, data.BUCKET, id="dp2 bf16"),
        pytest.param(ALL, 4, torch.float32, 1000, id="dp4 small buckets"),
        pytest.param(CUT, 2, torch.float32, data.BUCKET, id="ep2 dp1"),
        pytest.param(CUT, 4, torch.bfloat16, 1000, id="ep2 dp2 bf16 small buckets"),
    ],
)
def test_a_step_sends_the_bytes_of_the_formula(layout, size, dtype, bucket):
    replies = together(size, traffic_of, layout, dtype, bucket)
    total = sum(tensor.numel() for tensor in gradients_of(0).values())
    for counted, formula in replies:
        assert counted == formula
    if layout == ALL:
        each = torch.empty((), dtype=dtype).element_size()
        assert sum(counted[WEIGHTS] for counted, _ in replies) == total * (size - 1) * each
        assert sum(sum(counted.values()) for counted, _ in replies) == 2 * total * (size - 1) * each


def moved(rank):
    """The refusal of a weight whose memory was replaced."""
    with laid_out(ALL):
        state = owned_state(torch.float32)
        weight = state.model.layers["1"].self_attn.o_proj.weight
        weight.data = weight.data.clone()
        with pytest.raises(UserError) as error:
            take_step(state, torch.float32, 0)
        return str(error.value)


def test_a_weight_that_was_moved_after_the_optimizer_was_made_is_refused():
    for words in together(2, moved):
        assert words.startswith("MuonClip: layers.1.self_attn.o_proj.weight was moved or replaced")


def die_in_gather(rank):
    """Rank 1 is killed when it would send its weights; what the other is told, and after how long."""
    with laid_out(ALL):
        state = owned_state(torch.float32)
        if rank == 1:
            Circle.gather_ = lambda circle: os.kill(os.getpid(), signal.SIGKILL)
        begun = time.monotonic()
        with pytest.raises(data.RankLost, match="rank 0: another rank is gone"):
            take_step(state, torch.float32, 0)
        return time.monotonic() - begun


def test_a_rank_that_is_killed_in_the_gather_frees_the_others():
    (seconds,) = together(2, die_in_gather, dying=1)
    assert seconds < 60


def counts_here(rank, layout):
    """The counts of matrices with which a rank's optimizer chooses the form of Newton–Schulz."""
    with laid_out(layout):
        model = K2Model(config(), part=mesh().part(config()))
        return make_optimizer(model, 0.02, SETTINGS).counts


@pytest.mark.parametrize("layout", [Layout(ep=2), CUT, ALL], ids=str)
def test_the_form_of_newton_schulz_is_that_of_the_whole_model(layout):
    expected = matrix_counts(K2Model(config()), is_muon, per_head=True)
    assert together(2, counts_here, layout) == [expected, expected]
    assert expected[16, 32] == 2 * 2 * 7, "gate and up of six experts and the shared one, in two layers"
