"""docs/memory.md: the bytes that a layer keeps are those of the table, and the measured ones are measured."""

import re
from pathlib import Path

import pytest

from engine.model.activations import AUTOCAST, BF16, bytes_per_token
from engine.model.model import K2Model
from engine.model.parameters import config_from_parameters
from kernels.kept import Memory
from tests.engine.model.live import LENGTH, ROWS, passed
from tests.engine.tiny import config
from tests.nodes import text

PAGE = (Path(__file__).parents[2] / "docs/memory.md").read_text(encoding="utf-8")
LINES = re.findall(r"^\| ([a-z0-9_, ]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| (\d+) \|$", PAGE, re.MULTILINE)
MASK = 4 * 64 * 64


def test_the_page_has_each_switch_alone_and_all_together():
    assert len(LINES) == 8


@pytest.mark.parametrize("line", LINES, ids=[line[0] for line in LINES])
def test_a_row_of_the_page(line):
    words = [word for word in line[0].split(", ") if word != "none"]
    parts, fp8 = [word for word in words if word != "fp8_storage"], "fp8_storage" in words
    k2 = config_from_parameters(text.parameters("pretrain", "k2")["model"], 163_840, 4096)
    columns = ((BF16, 1), (BF16, 16), (AUTOCAST, 16))
    expected = [bytes_per_token(k2, 1, types, 4096, recompute=parts, fp8=fp8, ep=ep) for types, ep in columns]
    assert list(line[1:4]) == [f"{each / 1e3:.1f}" for each in expected]
    (*_, kept) = passed(K2Model(config(), 1), Memory(frozenset(parts), fp8))[1]
    assert float(line[4]) == pytest.approx(kept - MASK / (ROWS * LENGTH), abs=1)
