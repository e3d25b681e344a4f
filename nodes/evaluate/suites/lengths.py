"""Loss by position in windows as long as the extended context: shows whether a checkpoint uses it or breaks down."""

from itertools import accumulate
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from engine.intervals import bootstrap_ratio
from engine.model.model import K2Model
from engine.text.tokenizer import K2Tokenizer
from kernels.host import to_host
from nodes.evaluate.results import Row, SuiteResult
from nodes.evaluate.schema import Parameters
from nodes.evaluate.suites.likelihood import window_nats
from nodes.evaluate.suites.material import Material

TITLE: Final = "Long context"
ABOUT: Final = (
    "Nats a token in the last and the first quarter of windows of held-out natural text at the extended length. "
    "The last quarter shows what a checkpoint does beyond the length it was trained at. Intervals by bootstrap over "
    "documents."
)


def run(model: K2Model, tok: K2Tokenizer, data: Material, p: Parameters) -> SuiteResult:
    """Return the loss in the last and the first quarter of long windows, and the curve over all positions."""
    settings = p.lengths
    stream = data.shards.split("test")
    windows = stream.eval_windows(settings.length, None, ["natural"], settings.windows)
    documents_NT = stream.owners(windows).documents
    device_nats_NT = window_nats(model, torch.from_numpy(windows.tokens), 1).double()
    groups = torch.tensor_split(device_nats_NT.mean(0), settings.buckets)
    nats_NT, *means = to_host(device_nats_NT, *(group.mean() for group in groups))
    quarter = settings.length // 4
    parts = {
        "lengths/last_quarter": (f"positions {settings.length - quarter + 1}–{settings.length}", slice(-quarter, None)),
        "lengths/first_quarter": (f"positions 1–{quarter}", slice(quarter)),
    }
    rows, outcomes = [], {}
    for metric, (label, part) in parts.items():
        sums, counts = _by_document(nats_NT[:, part], documents_NT[:, part])
        interval = bootstrap_ratio(sums, counts, p.seed, metric)
        rows.append(Row(metric, label, interval.value, "nats/token", "lower", len(sums), interval.low, interval.high))
        outcomes[metric] = [sums, counts]
    curve = _curve([len(group) for group in groups], list(map(float, means)), _trained_length(model))
    return SuiteResult(tuple(rows), outcomes, {"curve": curve})


def _by_document(nats_NT: NDArray[np.float64], documents_NT: NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Return the nats and the number of targets of each document that has targets here."""
    sums = np.bincount(documents_NT.ravel(), weights=nats_NT.ravel())
    counts = np.bincount(documents_NT.ravel())
    return sums[counts > 0].tolist(), counts[counts > 0].astype(float).tolist()


def _curve(sizes: list[int], means: list[float], trained_length: int) -> dict[str, object]:
    """Return the mean loss of each group of neighbouring positions, at the group's middle position."""
    middles = [end - size / 2 for end, size in zip(accumulate(sizes), sizes, strict=True)]
    return {"positions": middles, "nats": means, "trained_length": trained_length}


def _trained_length(model: K2Model) -> int:
    """Return the context without scaling, the one that the rotary frequencies were trained at."""
    scaling = model.config.rope_scaling or {}
    return int(scaling.get("original_max_position_embeddings", model.config.max_position_embeddings))
