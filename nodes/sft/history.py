"""The history directory of a fine-tuning run: its rows and its plot."""

import json
import shutil
from pathlib import Path

from nodes.sft.plots import draw_history


def write_history(history: Path, directory: Path) -> Path:
    """Copy the loop's history.jsonl into `directory` (made anew) and draw it."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    shutil.copyfile(history, directory / "history.jsonl")
    rows = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
    draw_history(rows, directory / "loss.png")
    return directory
