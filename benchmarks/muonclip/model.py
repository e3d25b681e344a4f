"""Measure forward and backward, and whole training steps, of 4,096 tokens beside transformers' DeepseekV3."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.muonclip.clock import fastest, medians
from benchmarks.muonclip.models import batch, laptop_config, ours, peers
from benchmarks.report import Row
from engine.model.model import K2Model
from engine.optim.muonclip import MuonClip
from engine.training.language import next_token_loss

ROWS, LENGTH = 32, 128
LR = 1e-3


def rows(repeats: int) -> list[Row]:
    """Return all rows of this part."""
    out = [_forward_backward(repeats, torch.float32), _forward_backward(max(5, repeats // 2), torch.bfloat16)]
    return [*out, _whole_step(repeats), _capture(repeats)]


def _our_gradients(model: K2Model, ids: Tensor) -> None:
    model.zero_grad(set_to_none=True)
    next_token_loss(model, ids).backward()


def _their_gradients(model: Any, ids: Tensor) -> None:
    model.zero_grad(set_to_none=True)
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten()).backward()


def _forward_backward(repeats: int, dtype: torch.dtype) -> Row:
    ids, config = batch(ROWS, LENGTH), laptop_config(LENGTH)
    mine = ours(config, dtype)
    competitors: dict[str, Callable[[], None]] = {"ours": lambda: _our_gradients(mine, ids)}
    for name, peer in peers(config, dtype).items():
        competitors[name] = partial(_their_gradients, peer, ids)
    measured = medians(repeats, competitors)
    name, seconds = fastest(measured, "transformers")
    case = f"forward + backward, {ROWS} x {LENGTH} tokens, {str(dtype).removeprefix('torch.')}, maxima captured"
    ratio = seconds / measured["ours"]
    return Row(case, measured["ours"], "s", name, seconds, "1.2 times as fast (goal 1.5)", ratio >= 1.2)


def _whole_step(repeats: int) -> Row:
    """Measure a step with MuonClip, all maxima captured, against transformers with AdamW."""
    ids, config = batch(ROWS, LENGTH), laptop_config(LENGTH)
    mine = ours(config)
    muonclip = MuonClip(mine, LR, ns_dtype=torch.float32)

    def our_step() -> None:
        _our_gradients(mine, ids)
        muonclip.step()

    competitors: dict[str, Callable[[], None]] = {"ours": our_step}
    for name, peer in peers(config).items():
        competitors[name] = _their_step(peer, ids)
    measured = medians(repeats, competitors)
    name, seconds = fastest(measured, "transformers")
    ratio = seconds / measured["ours"]
    case = f"whole step with MuonClip, {ROWS} x {LENGTH} tokens, fp32"
    return Row(case, measured["ours"], "s", f"{name}, fused AdamW", seconds, "as fast (goal 1.5)", ratio >= 1.0)


def _their_step(peer: Any, ids: Tensor) -> Callable[[], None]:
    adamw = torch.optim.AdamW(peer.parameters(), lr=LR, weight_decay=0.1, betas=(0.9, 0.95), fused=True)

    def step() -> None:
        _their_gradients(peer, ids)
        adamw.step()

    return step


def _capture(repeats: int) -> Row:
    """Measure the same forward and backward with and without the heads' maxima."""
    ids, mine = batch(ROWS, LENGTH), ours(laptop_config(LENGTH))

    def gradients(capture: bool) -> None:
        for attention in mine.attentions():
            attention.recording = capture
        _our_gradients(mine, ids)

    competitors = {"with": lambda: gradients(True), "without": lambda: gradients(False)}
    measured = medians(3 * repeats, competitors)
    more = measured["with"] / measured["without"] - 1
    target = "at most 5 % more (goal 2 %)"
    return Row("exact S_max capture", measured["with"], "s", "same without", measured["without"], target, more <= 0.05)
