"""docs/pipeline.md shows the schedules as they are."""

import re
from pathlib import Path

import pytest

from engine.parallel.pipeline_picture import main, picture
from engine.parallel.pipeline_table import SCHEDULES, table
from engine.parallel.pipeline_time import idle, timeline

PAGE = (Path(__file__).resolve().parents[2] / "docs/pipeline.md").read_text(encoding="utf-8")
SHARES = {"": 1, "⅔ ": 2 / 3, "⅓ ": 1 / 3}


def test_the_pictures_are_those_that_the_command_draws() -> None:
    (command,) = re.findall(r"`python -m engine.parallel.pipeline_picture ([\d ]+)`", PAGE)
    (drawn,) = re.findall(r"```text\n(.*?)\n```", PAGE, re.DOTALL)
    assert drawn == main(command.split())


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_pictures_stand_idle_as_long_as_the_table_says(schedule: str) -> None:
    (share,) = re.findall(rf"\| `{schedule}` \| (.*?)\(p − 1\) / \(v·m\) \|", PAGE)
    times = timeline(table(schedule, 4, 2, 8))
    assert idle(times) == pytest.approx(SHARES[share] * 3 / 16)
    for line in picture(schedule, 4, 2, 8).splitlines():
        assert line.count(".") == pytest.approx(SHARES[share] * 9)
