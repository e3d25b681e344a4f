"""Pipelines of real gloo ranks: gradients, figures and records of one process, in the order that the schedule says."""

import numpy as np
import pytest
import torch

from engine.model.model import K2Model
from engine.parallel.layout import Layout, stages
from engine.parallel.mesh import laid_out, mesh
from engine.parallel.pipeline_table import SCHEDULES, Action
from engine.parallel.traffic import counted_traffic
from engine.rollout.generate import generate
from engine.training.language import language_modelling, token_nats
from engine.training.step import _micro_batches
from tests.engine.parallel.ranks import together
from tests.engine.tiny import config

pytestmark = pytest.mark.slow

SIZES = config(num_hidden_layers=9)
ROWS, LENGTH, PARTS = 12, 13, 6
TYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.float32}
"""How a step computes → the type of its weights."""


def rows():
    return torch.randint(0, 61, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(0))


def parameters_of(model):
    return {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}


def records_of(model):
    maxima = {block.layer: block.self_attn.max_logit_H.numpy() for block in model.blocks}
    return maxima, {layer: router.load_E.numpy() for layer, router in model.routers().items()}


def step(layout, dtype):
    """One step's gradients, figures, largest logits and loads of this rank; its trace and its traffic in a pipeline."""
    from engine.parallel import pipeline

    traces, forwards = [], []
    run = pipeline.execute
    pipeline.execute = lambda *given: traces.append(run(*given))
    with laid_out(layout), counted_traffic() as traffic:
        model = K2Model(SIZES, part=mesh().part(SIZES)).to(TYPES[dtype]).train()
        for block in model.blocks:
            block.register_forward_pre_hook(lambda block, *_: forwards.append(block.layer))
        figures = _micro_batches(model, {"ids": rows()}, language_modelling, dtype, PARTS)
        figures = [{name: float(value) for name, value in of.items()} for of in figures]
        place = mesh().coordinates()["pp"]
        listed = pipeline.lists(layout.schedule, layout.pp, layout.vpp, PARTS // mesh().rows.size)[place]
    pipeline.execute = run
    return {
        "gradients": parameters_of(model),
        "figures": figures,
        "records": records_of(model),
        "order": (traces[-1:], [listed], forwards),
        "bytes": dict(traffic.crossed),
    }


def steps(rank, cases):
    return [step(*case) for case in cases]


def readings_of(model):
    """The held-out loss of windows, in readings of unequal length, and what sampling gives."""
    windows = np.random.default_rng(0).integers(0, 61, (7, 13))
    nats = token_nats(model, windows, batch_tokens=3 * 13)
    drawn = generate(model, [[5, 6, 7], [8, 9], [5, 6, 7]], 6, 0.9, 3, 2)
    return nats.numpy(), [(one.tokens, one.logprobs) for one in drawn]


def read_in(rank, layouts):
    """What a rank reads in each layout, and whether nothing was recorded."""
    out = []
    for layout in layouts:
        with laid_out(layout):
            model = K2Model(SIZES, part=mesh().part(SIZES)).train()
            read = readings_of(model)
            maxima, loads = records_of(model)
            silent = all(np.isneginf(of).all() for of in maxima.values()) and not any(of.any() for of in loads.values())
            out.append((*read, silent and model.training))
    return out


def one_process(dtype):
    torch.set_num_threads(1)
    model = K2Model(SIZES).to(TYPES[dtype]).train()
    figures = _micro_batches(model, {"ids": rows()}, language_modelling, dtype, PARTS)
    figures = [{name: float(value) for name, value in of.items()} for of in figures]
    return parameters_of(model), figures, records_of(model)


CASES = [(Layout(pp=2, vpp=vpp, schedule=schedule), "float32") for vpp in (1, 2) for schedule in SCHEDULES]
CASES += [
    (Layout(pp=2, vpp=2, schedule=schedule), dtype) for schedule in SCHEDULES for dtype in ("float64", "bfloat16")
]
DEEP = [(Layout(pp=4, vpp=vpp, schedule=schedule), "float32") for vpp in (1, 2) for schedule in SCHEDULES]


@pytest.fixture(scope="module")
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def expected(threads):
    return {dtype: one_process(dtype) for dtype in TYPES}


@pytest.fixture(scope="module")
def results():
    """Each case's results by rank."""
    by_rank = [together(2, steps, CASES, seconds=240), together(4, steps, DEEP, seconds=240)]
    of = {}
    for cases, ranks in zip((CASES, DEEP), by_rank, strict=True):
        of |= {str(case): [rank[number] for rank in ranks] for number, case in enumerate(cases)}
    return of


@pytest.mark.parametrize("case", CASES + DEEP, ids=str)
def test_a_pipeline_gives_the_bits_of_one_process(results, expected, case):
    gradients, figures, (maxima, loads) = expected[case[1]]
    held = set()
    for rank in results[str(case)]:
        assert rank["figures"] == figures, "all ranks have the figures of the last"
        for name, gradient in rank["gradients"].items():
            assert gradient.tobytes() == gradients[name].tobytes(), name
        for own, whole in zip(rank["records"], (maxima, loads), strict=True):
            assert all(values.tobytes() == whole[layer].tobytes() for layer, values in own.items())
        held |= set(rank["gradients"])
    assert held == set(gradients)


@pytest.mark.parametrize("case", CASES + DEEP, ids=str)
def test_what_is_done_is_what_the_schedule_says(results, case):
    layout = case[0]
    first_layers = [cut[0] for cut in stages(SIZES.num_hidden_layers, layout)]
    for number, rank in enumerate(results[str(case)]):
        trace, listed, forwards = rank["order"]
        assert trace == listed
        of_forwards = [action.stage for action in trace[0] if action.kind == "F"]
        assert [first_layers.index(layer) for layer in forwards if layer in first_layers] == of_forwards
        assert {action.stage % layout.pp for action in trace[0]} == {number}
        assert Action(number, "F", 0) in trace[0]


@pytest.mark.parametrize("case", CASES + DEEP, ids=str)
def test_the_bytes_are_those_of_the_stages_outputs(results, case):
    layout, dtype = case
    each = ROWS * LENGTH * SIZES.hidden_size * TYPES[dtype].itemsize
    hops = layout.pp * layout.vpp - 1
    for kind in ("stage outputs", "stage gradients"):
        assert sum(rank["bytes"].get(kind, 0) for rank in results[str(case)]) == hops * each


def test_held_out_loss_and_samples_are_those_of_one_process(threads):
    torch.set_num_threads(1)
    nats, drawn = readings_of(K2Model(SIZES).train())
    for ranks, layouts in ((2, [Layout(pp=2), Layout(pp=2, vpp=2)]), (4, [Layout(pp=2, ep=2), Layout(pp=4, vpp=2)])):
        for of_rank in together(ranks, read_in, layouts):
            for own, samples, silent in of_rank:
                assert np.allclose(own, nats, rtol=0, atol=1e-5)
                assert [tokens for tokens, _ in samples] == [tokens for tokens, _ in drawn]
                for (_, logprobs), (_, expected) in zip(samples, drawn, strict=True):
                    assert logprobs == pytest.approx(expected, abs=1e-5)
                assert silent
