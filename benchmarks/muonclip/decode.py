"""Measure greedy decoding of a batch beside transformers' generate with its cache."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.muonclip.clock import fastest, medians
from benchmarks.muonclip.models import batch, laptop_config, longer, ours, peers
from benchmarks.report import Row
from engine.rollout.generate import generate

ROWS, PROMPT, NEW = 16, 64, 128
NEVER = -1  # a stop token that never comes: every row runs to the full length


def rows(repeats: int) -> list[Row]:
    """Return all rows of this part."""
    ids, config = batch(ROWS, PROMPT)[:, :PROMPT], longer(laptop_config(PROMPT), PROMPT + NEW)
    mine, prompts = ours(config), ids.tolist()
    competitors: dict[str, Callable[[], object]] = {"ours": lambda: generate(mine, prompts, NEW, 0.0, 0, NEVER)}
    for name, peer in peers(config).items():
        competitors[name] = partial(_their_tokens, peer, ids)
    measured = medians(max(5, repeats // 2), competitors)
    name, seconds = fastest(measured, "transformers")
    speed, base = ROWS * NEW / measured["ours"], ROWS * NEW / seconds
    case = f"decode, batch {ROWS}, {PROMPT} prompt and {NEW} new tokens"
    return [Row(case, speed, "tokens/s", name, base, "2 times as fast (goal 4)", speed / base >= 2.0)]


@torch.no_grad()
def _their_tokens(peer: Any, ids: torch.Tensor) -> torch.Tensor:
    tokens: torch.Tensor = peer.eval().generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, use_cache=True, pad_token_id=0, eos_token_id=None,
        min_new_tokens=NEW, max_new_tokens=NEW,
    )  # fmt: skip
    return tokens
