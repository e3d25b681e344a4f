"""Packed documents in MLA's attention on a CPU: each sees itself alone, in values, maxima and gradients."""

import pytest
import torch

from kernels import latent_attention
from kernels.latent_attention import BLOCK, reference
from tests.kernels.test_latent_attention import operands, results

FIRSTS = [[0, 1, 2, BLOCK, BLOCK + 3], [0, BLOCK - 1]]


def starts(T):
    start = torch.zeros(2, T, dtype=torch.int32)
    for row, firsts in zip(start, FIRSTS, strict=True):
        for first in firsts:
            row[first:] = first
    return start


@pytest.mark.parametrize("keep", [0, 10**9])
def test_documents_equal_the_reference_with_gradients(keep, monkeypatch):
    monkeypatch.setattr(latent_attention, "KEEP", keep)
    leaves, turn = operands(2, BLOCK + 9)
    start = starts(BLOCK + 9)
    for expected, got in zip(
        results(lambda *a: reference(*a, start_BT=start), leaves, turn),
        results(lambda *a: latent_attention.latent_attention(*a, start_BT=start), leaves, turn),
    ):
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


def test_a_document_is_attended_to_as_if_it_were_alone():
    leaves, turn = operands(2, BLOCK + 9)
    start = starts(BLOCK + 9)
    y, _ = latent_attention.latent_attention(*leaves, turn, 0.37, start_BT=start)
    for row, firsts in enumerate(FIRSTS):
        for first, last in zip(firsts, [*firsts[1:], BLOCK + 9], strict=True):
            own = [leaf[row : row + 1, first:last] for leaf in leaves]
            alone, _ = latent_attention.latent_attention(*own, turn[first:last], 0.37)
            torch.testing.assert_close(y[row : row + 1, first:last], alone, rtol=1e-11, atol=1e-11)
