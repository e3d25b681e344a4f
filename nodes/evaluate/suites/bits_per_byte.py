"""Bits per byte on held-out natural text by domain, which is comparable across tokenizers, unlike nats per token."""

from math import log
from typing import Final

import numpy as np
import torch

from engine.errors import UserError
from engine.intervals import bootstrap_ratio
from engine.model.model import K2Model
from engine.text.tokenizer import K2Tokenizer
from kernels.host import to_host
from nodes.evaluate.results import Row, SuiteResult, Unit
from nodes.evaluate.schema import Parameters
from nodes.evaluate.suites.likelihood import window_nats
from nodes.evaluate.suites.material import Material

TITLE: Final = "Held-out text"
ABOUT: Final = (
    "Bits per byte on windows of the test split's natural text, the same for every checkpoint, evenly spaced over each "
    "domain; intervals by bootstrap over documents, each with all its windows. Plain text, no chat format."
)


def run(model: K2Model, tok: K2Tokenizer, data: Material, p: Parameters) -> SuiteResult:
    """Return bits per byte of all domains pooled and of each, and nats per token pooled."""
    settings = p.bits_per_byte
    _check_window(model, settings.window)
    stream = data.shards.split("test")
    domains = list(dict.fromkeys(shard.domain for shard in stream.choose(kinds=["natural"])))
    outcomes: dict[str, list[list[float]]] = {}
    per_token: list[list[float]] = [[], []]
    for domain in domains:
        windows = stream.eval_windows(settings.window, [domain], ["natural"], settings.windows)
        targets = stream.owners(windows)
        (nats_NT,) = to_host(window_nats(model, torch.from_numpy(windows.tokens), settings.batch).double())
        nats, size = targets.totals(nats_NT), targets.totals(targets.n_bytes)
        outcomes[f"bits_per_byte/{domain}"] = [(nats / log(2)).tolist(), size.tolist()]
        per_token[0] += nats.tolist()
        per_token[1] += targets.totals(np.ones_like(nats_NT)).tolist()
    pooled = [[value for pair in outcomes.values() for value in pair[part]] for part in (0, 1)]
    outcomes = {"bits_per_byte/all": pooled, **outcomes}
    rows = [_row(name, _label(name), pair, "bits/byte", p) for name, pair in outcomes.items()]
    outcomes["loss/all"] = per_token
    rows.append(_row("loss/all", "all domains, nats a token", per_token, "nats/token", p))
    return SuiteResult(tuple(rows), outcomes)


def _label(metric: str) -> str:
    domain = metric.removeprefix("bits_per_byte/")
    return "all domains" if domain == "all" else domain


def _row(metric: str, label: str, pair: list[list[float]], unit: Unit, p: Parameters) -> Row:
    interval = bootstrap_ratio(pair[0], pair[1], p.seed, metric)
    return Row(metric, label, interval.value, unit, "lower", len(pair[0]), interval.low, interval.high)


def _check_window(model: K2Model, window: int) -> None:
    if window > model.config.max_position_embeddings:
        raise UserError(
            f"parameters/evaluate.yml: evaluate.bits_per_byte.window is {window}, but a checkpoint's context is "
            f"{model.config.max_position_embeddings}: lower it, so that no checkpoint reads beyond its context."
        )
