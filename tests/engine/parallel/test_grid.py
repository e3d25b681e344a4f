"""The layout grid: every layout computes what one process does, and every planted defect shows."""

from collections.abc import Iterator
from itertools import groupby

import numpy as np
import pytest
import torch

from engine.model.model import K2Model
from engine.parallel.layout import Grid
from engine.parallel.placement import is_expert
from tests.engine.parallel.grid import GRAD_CLIP, ONE, ROWS, SEED, SIZES, STEPS, WRONG, Record, Row, run
from tests.engine.parallel.ranks import together

pytestmark = pytest.mark.slow

Records = dict[tuple[Row, torch.dtype], list[Record]]
Piece = tuple[int, np.ndarray]
"""The number of the first expert in a tensor, 0 where it has none, and the tensor."""
HEADS = SIZES.num_hidden_layers * SIZES.num_attention_heads


@pytest.fixture(scope="module")
def records() -> Records:
    """The records of all ranks by row, from one set of processes for each number of ranks."""
    wanted = [(row, torch.float64) for row in [ONE, *ROWS, *WRONG]] + [(row, torch.float32) for row in [ONE, *ROWS]]
    out: Records = {}
    for ranks, alike in groupby(sorted(wanted, key=lambda of: of[0].ranks), key=lambda of: of[0].ranks):
        rows = list(alike)
        by_rank = together(ranks, run, rows, seconds=300)
        out |= {row: [of[i] for of in by_rank] for i, row in enumerate(rows)}
    return out


def pieces(ranks: list[Record]) -> Iterator[tuple[str, Piece]]:
    """The tensors that the ranks hold."""
    for record in ranks:
        for name, tensor in record.weights.items():
            yield name, (record.first_expert if is_expert(name) else 0, tensor)


def distances(one: Record, ranks: list[Record]) -> dict[str, list[np.ndarray]]:
    """How far each piece that a rank holds is off the same piece of one process, by tensor."""
    off: dict[str, list[np.ndarray]] = {name: [] for name in one.weights}
    for name, (first, tensor) in pieces(ranks):
        whole = one.weights[name]
        off[name].append(tensor - (whole[first : first + len(tensor)] if tensor.ndim else whole))
    return off


def differences(records: Records, row: Row) -> dict[str, float]:
    """How far weights and figures are off those of one process, at most; inf where tokens or their experts differ."""
    (one,), ranks = records[ONE, torch.float64], records[row, torch.float64]
    off = {name: max(float(np.abs(part).max()) for part in parts) for name, parts in distances(one, ranks).items()}
    for step, expected in enumerate(one.history):
        for name in (name for name, value in expected.items() if isinstance(value, float)):
            scale = max(abs(expected[name]), 1.0)
            figures = [abs(record.history[step][name] - expected[name]) / scale for record in ranks]
            off[f"{name} of step {step}"] = max(figures)
    grid = Grid.of(row.layout, row.ranks)
    first = [record for rank, record in enumerate(ranks) if grid.coordinates(rank)["pp"] == 0]
    alike = {"tokens": sorted(one.tokens) == sorted(token for record in first for token in record.tokens)}
    for layer, chosen in one.chosen.items():
        of_ranks = sorted(experts for record in ranks for experts in record.chosen.get(layer, []))
        alike[f"experts of layer {layer}"] = sorted(chosen) == of_ranks
    return off | {name: 0.0 if same else np.inf for name, same in alike.items()}


def worst(off: dict[str, float]) -> tuple[str, float]:
    """The largest difference, with its name; a NaN counts as the largest."""
    return max(off.items(), key=lambda item: np.nan_to_num(item[1], nan=np.inf))


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_layout_computes_what_one_process_does(records, row):
    name, off = worst(differences(records, row))
    assert off <= 1e-10, name


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_in_fp32_a_layout_is_off_by_a_ten_thousandth_of_the_update_at_most(records, row):
    (one,) = records[ONE, torch.float32]
    begin = {name: tensor.numpy() for name, tensor in K2Model(SIZES, SEED).state_dict().items()}
    for name, parts in distances(one, records[row, torch.float32]).items():
        update = np.linalg.norm(one.weights[name] - begin[name])
        assert max(float(np.linalg.norm(part)) for part in parts) <= 1e-4 * update, name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_ranks_that_hold_the_same_piece_hold_the_same_bits(records, row, dtype):
    held: dict[tuple[str, int], np.ndarray] = {}
    for name, (first, tensor) in pieces(records[row, dtype]):
        assert np.array_equal(held.setdefault((name, first), tensor), tensor), name
    whole = {name for name, _ in held}
    assert whole == set(records[ONE, dtype][0].weights), "every tensor is somewhere"


@pytest.mark.parametrize("row", WRONG, ids=str)
def test_a_planted_defect_shows(records, row):
    name, off = worst(differences(records, row))
    assert not off <= 1e-4, name


def test_the_steps_clip_some_heads_and_the_gradient_and_move_the_biases(records):
    (one,) = records[ONE, torch.float64]
    assert len(one.history) == STEPS
    for row in one.history:
        assert 0 < row["clipped_heads"] < HEADS
        assert row["grad_norm"] > GRAD_CLIP
    assert all(np.any(tensor) for name, tensor in one.weights.items() if name.endswith("e_score_correction_bias"))
