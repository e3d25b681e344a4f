"""docs/kernels.md: the kernel that it explains line by line is the one that runs, and its table has every op."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/kernels.md").read_text(encoding="utf-8")


def test_the_lines_explained_are_those_of_the_kernel() -> None:
    explained = "".join(re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL))
    assert explained.startswith("@triton.jit\ndef _forward(")
    assert explained in (ROOT / "kernels/gpu/rms_norm.py").read_text(encoding="utf-8")


def test_the_table_has_every_op() -> None:
    ops = {path.stem for path in (ROOT / "kernels/gpu").glob("[!_]*.py")}
    assert set(re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)) == ops
