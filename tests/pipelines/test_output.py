"""Work goes on when the reader of its output has gone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.stages_file import ROOT

WORKS = """
import sys
from engine.progress import progress
from pipelines.errors import report_errors
with report_errors():
    with progress("work", 3) as bar:
        for _ in range(3):
            bar.advance()
            print("output"), print("a line of error", file=sys.stderr)
    open(sys.argv[1], "w").write("whole")
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_work_goes_on_when_the_reader_of_its_output_has_gone(unbuffered: str, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(
        [sys.executable, "-c", WORKS, tmp_path / "done"],
        cwd=ROOT, stdout=writer, stderr=writer, env={**os.environ, "PYTHONUNBUFFERED": unbuffered}, check=False,
    )  # fmt: skip
    os.close(writer)
    assert process.returncode == 0
    assert (tmp_path / "done").read_text() == "whole"


def test_what_is_read_is_whole_and_in_order(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-c", WORKS, tmp_path / "done"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert process.stdout.count("output\n") == 3
    assert process.stderr.splitlines()[:2] == ["a line of error"] * 2
    assert "work: 3/3" in process.stderr
