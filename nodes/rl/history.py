"""Write the history directory of a reinforcement-learning run: rows, candidates, curves."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.plots import COLOURS, axes, figure, legend, save_png
from engine.training.history import curve, read_history
from engine.training.journal import HISTORY

Rows = Sequence[Mapping[str, Any]]


def write_history(history: Path, judged: Sequence[tuple[int, float]], directory: Path) -> Path:
    """Copy history.jsonl into an emptied `directory`, add the candidates' verdicts, and draw both."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    shutil.copyfile(history, directory / HISTORY)
    candidates = [{"iteration": iteration, "pass_rate": rate} for iteration, rate in judged]
    (directory / "candidates.json").write_text(json.dumps(candidates, indent=2) + "\n", encoding="utf-8")
    draw_curves(read_history(history), judged, directory / "curves.png")
    return directory


def draw_curves(rows: Rows, judged: Sequence[tuple[int, float]], path: Path) -> Path:
    """Draw reward, length, entropy and KL over the optimizer steps, one panel each."""
    fig = figure(10, 6)
    per_iteration = len(rows) / max(iteration for iteration, _ in judged)
    reward = axes(fig, title="Reward", xlabel="step", ylabel="share right", position=(2, 2, 1))
    reward.plot(*curve(rows, "reward"), color=COLOURS[0], linewidth=1, label="sampled in training")
    reward.plot(
        [iteration * per_iteration for iteration, _ in judged],
        [rate for _, rate in judged],
        color=COLOURS[1],
        marker="o",
        markersize=4,
        label="tuning split, temperature 1",
    )
    legend(reward)
    length = axes(fig, title="Response length", xlabel="step", ylabel="tokens", position=(2, 2, 2))
    length.plot(*curve(rows, "length"), color=COLOURS[2])
    entropy = axes(fig, title="Entropy", xlabel="step", ylabel="nats a token", position=(2, 2, 3))
    entropy.plot(*curve(rows, "entropy"), color=COLOURS[3])
    kl = axes(fig, title="KL from the sampling policy", xlabel="step", ylabel="nats a response", position=(2, 2, 4))
    kl.plot(*curve(rows, "kl"), color=COLOURS[4])
    return save_png(fig, path)
