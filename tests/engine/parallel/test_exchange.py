"""Routed experts over real gloo ranks: values, gradients and bytes, whichever experts the tokens choose."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from engine.model.cache import LatentCache
from engine.model.decoder import Decoder
from engine.model.model import K2Model
from engine.parallel import data
from engine.parallel.exchange import COUNTS, GATES_BACK, GATES_OUT, ROWS_BACK, ROWS_OUT, exchanged_experts
from engine.parallel.layout import Layout
from engine.parallel.mesh import laid_out, mesh
from engine.parallel.traffic import counted_traffic
from kernels.experts import experts
from tests.engine.parallel.ranks import together
from tests.engine.tiny import config

pytestmark = pytest.mark.slow

D, F, E = 16, 8, 8
CLOSE = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 0.1}


@dataclass(frozen=True)
class Case:
    """What the tokens choose, and how many each rank has."""

    choice: str
    tokens: tuple[int, ...]
    dtype: torch.dtype = torch.float64
    k: int = 2

    def chosen(self) -> Tensor:
        """The experts of all tokens, (N, k)."""
        numbers = torch.arange(sum(self.tokens))[:, None]
        if self.choice == "balanced":  # each token on `k` ranks in turn, every expert equally often
            return (numbers + torch.arange(self.k) * (E // self.k)) % E
        if self.choice == "one expert":
            return torch.full((len(numbers), 1), 5)
        if self.choice == "none on the last rank":
            return draw(4, len(numbers), E // 2).topk(self.k).indices
        return draw(4, len(numbers), E).topk(self.k).indices


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CASES = {
    2: [
        Case("random", (9, 7)),
        Case("random", (5, 0), torch.float32),
        Case("random", (40, 3), torch.bfloat16),
        Case("one expert", (6, 8), k=1),
        Case("none on the last rank", (6, 8)),
        Case("balanced", (16, 16), torch.float32),
    ],
    4: [
        Case("random", (3, 0, 11, 1)),
        Case("one expert", (2, 2, 0, 4), k=1),
        Case("none on the last rank", (6, 0, 1, 8)),
        Case("balanced", (8, 8, 8, 8), torch.bfloat16),
    ],
}


def both_ways(rank: int, cases: list[Case]) -> list[dict[str, Any]]:
    """Return for each case how far this rank's values and gradients are off those of one process, and its traffic."""
    return [_compare(rank, case) for case in cases]


def _compare(rank: int, case: Case) -> dict[str, Any]:
    group = dist.group.WORLD
    assert group is not None
    chosen, start = case.chosen(), sum(case.tokens[:rank])
    tokens = slice(start, start + case.tokens[rank])
    whole = [
        t.to(case.dtype).requires_grad_()
        for t in (
            draw(1, *chosen.shape[:1], D),
            draw(5, *chosen.shape).sigmoid(),
            draw(2, E, 2 * F, D),
            draw(3, E, D, F),
        )
    ]
    weight = draw(6, len(chosen), D).to(case.dtype)
    y = experts(whole[0], chosen, *whole[1:])
    (y * weight).sum().backward()
    held = slice(E // group.size() * rank, E // group.size() * (rank + 1))
    cuts = [tokens, tokens, held, held]
    own = [t.detach()[cut].clone().requires_grad_() for t, cut in zip(whole, cuts, strict=True)]
    with counted_traffic() as traffic:
        mine = exchanged_experts(own[0], chosen[tokens], *own[1:], E, group)
        forward = dict(traffic.given), dict(traffic.crossed)
        (mine * weight[tokens]).sum().backward()
    with torch.no_grad():
        evaluated = exchanged_experts(own[0], chosen[tokens], *own[1:], E, group)
        doubled = exchanged_experts(own[0], chosen[tokens], 2 * own[1], *own[2:], E, group)
    pairs = {"y": (mine, y[tokens]), "evaluated": (evaluated, y[tokens])} | {
        name: (t.grad, other.grad[cut])
        for name, t, other, cut in zip(["dx", "dgate", "dgate_up", "ddown"], own, whole, cuts, strict=True)
    }
    off = {name: float((a - b).abs().amax()) if b.numel() else 0.0 for name, (a, b) in pairs.items()}
    return {
        "off": off, "shapes": all(a.shape == b.shape for a, b in pairs.values()),
        "doubled": torch.equal(doubled, 2 * evaluated), "forward": forward,
        "whole": (dict(traffic.given), dict(traffic.crossed)),
    }  # fmt: skip


@pytest.fixture(scope="module", params=CASES)
def results(request: pytest.FixtureRequest) -> tuple[int, list[tuple[Case, list[dict[str, Any]]]]]:
    """The number of ranks, and each case with what every rank returned."""
    size, cases = request.param, CASES[request.param]
    by_rank = together(size, both_ways, cases)
    return size, [(case, [of[i] for of in by_rank]) for i, case in enumerate(cases)]


def test_values_and_gradients_are_those_of_one_process(results):
    for case, by_rank in results[1]:
        for rank, result in enumerate(by_rank):
            assert result["shapes"], (case, rank)
            for name, off in result["off"].items():
                assert off <= CLOSE[case.dtype], (case, rank, name)


def test_the_gate_is_applied_once(results):
    """A gate of twice the size, a power of two, gives twice the result to the bit, and not four times."""
    for case, by_rank in results[1]:
        assert all(result["doubled"] for result in by_rank), case


def test_the_bytes_sent_are_those_of_the_rows(results):
    """tokens·k·D·itemsize go out and come back, forward and backward; gates travel in messages of their own."""
    ranks, cases = results
    for case, by_rank in cases:
        itemsize = torch.empty(0, dtype=case.dtype).element_size()
        rows = case.chosen().numel()
        for passes, name in ((1, "forward"), (2, "whole")):
            given, crossed = (total([result[name][i] for result in by_rank]) for i in (0, 1))
            assert given[ROWS_OUT] == given[ROWS_BACK] == passes * rows * D * itemsize, case
            assert given[GATES_OUT] == rows * itemsize, case
            assert given.get(GATES_BACK, 0) == (passes - 1) * rows * itemsize, case
            assert given[COUNTS] == ranks * E * 8, "the host is told of the rows once, also for the gradient"
            if case.choice == "balanced":
                assert crossed[ROWS_OUT] == crossed[ROWS_BACK] == given[ROWS_OUT] * (ranks - 1) // ranks
        sent = [result["forward"][0][ROWS_OUT] for result in by_rank]
        assert sent == [tokens * case.chosen().shape[1] * D * itemsize for tokens in case.tokens]


def test_a_rank_that_gets_no_row_sends_none_back(results):
    for case, by_rank in results[1]:
        if case.choice == "none on the last rank":
            assert by_rank[-1]["whole"][0][ROWS_BACK] == 0
            assert by_rank[-1]["off"]["ddown"] == 0


def total(of_ranks: list[dict[str, int]]) -> dict[str, int]:
    return {kind: sum(of[kind] for of in of_ranks) for kind in of_ranks[0]}


def test_a_group_of_one_computes_the_same_bits():
    """Not used where ep is 1, but then nothing may differ either."""
    (same,) = together(1, alone)
    assert same


def alone(rank: int) -> bool:
    group, x, chosen, gates = dist.group.WORLD, draw(1, 30, D), draw(4, 30, E).topk(2).indices, draw(5, 30, 2)
    assert group is not None
    assert data.ranks().size == 1
    weights = draw(2, E, 2 * F, D), draw(3, E, D, F)
    return torch.equal(exchanged_experts(x, chosen, gates, *weights, E, group), experts(x, chosen, gates, *weights))


def test_a_part_of_a_model_without_its_layout_is_refused():
    chosen, gates = torch.zeros(3, 1, dtype=torch.int64), torch.ones(3, 1)
    with pytest.raises(ValueError, match="2 of 8 experts are here, and the group has 1 ranks: set the layout"):
        exchanged_experts(draw(1, 3, D), chosen, gates, draw(2, 2, 2 * F, D), draw(3, 2, D, F), E, None)


MODEL = config(n_routed_experts=8)


def read_together(rank: int, layout: Layout) -> dict[str, Any]:
    """How far forwards of a model cut over ranks are off the whole one's: training, evaluation and decoding."""
    whole, ids = K2Model(MODEL).double(), torch.randint(0, 61, (4, 7), generator=torch.Generator().manual_seed(1))
    with laid_out(layout):
        cut = K2Model(MODEL, part=mesh().part(MODEL)).double()
        own, logits = ids[rank:, : 7 - 2 * rank], {}
        for name, model in {"whole": whole, "cut": cut}.items():
            model.train()
            trained = model(own)
            trained.square().sum().backward()
            with torch.inference_mode():
                model.eval()
                cache = LatentCache(MODEL, 2, 9, dtype=torch.float64)
                prompt = model(ids[:2], cache)
                decoder = Decoder(model, cache)
                steps = [decoder.step(ids[2:, at]) for at in range(2)]
            logits[name] = [trained.detach(), model(own).detach(), prompt, *steps]
        pairs = zip(*logits.values(), strict=True)
        off = [float((a - b).abs().amax()) if a.numel() else 0.0 for a, b in pairs]
        loads = [router.load_E.sum().item() for router in cut.routers().values()]
    return {"off": off, "loads": loads}


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_model_whose_experts_are_cut_reads_and_decodes_as_the_whole(ranks):
    results = together(ranks, read_together, Layout(ep=ranks))
    for rank, result in enumerate(results):
        assert max(result["off"]) <= 1e-10, rank
        assert result["loads"] == [(4 - rank) * (7 - 2 * rank) * 2] * 2, "a rank counts its own tokens, once"
