"""Run either model: fixed steps, CPU time of the training alone, loss on held-out natural text."""

import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.dense.gpt import DenseGPT
from benchmarks.muonclip.models import laptop_config
from engine.model.model import K2Model
from engine.optim.muonclip import MuonClip
from engine.optim.schedule import Schedule
from engine.text.shards import TokenShards
from engine.text.tokenizer import K2Tokenizer
from engine.training.language import losses_by_domain, next_token_loss
from engine.training.numerics import settle

BATCH, LENGTH, WINDOWS = 16, 128, 512
BIAS_RATE = 1e-2


def train(model_name: str, rate: float, steps: int, seed: int, tokenizer: Path, shards: Path) -> dict[str, Any]:
    """Train `model_name` (dense or k2) from `seed` for `steps` steps; return the run's figures."""
    settle(threads=1)
    tok = K2Tokenizer.load(tokenizer)
    opened = TokenShards.open(shards, tok)
    config = laptop_config(LENGTH)
    assert config.vocab_size == opened.vocab_size
    model: Any = K2Model(config, seed) if model_name == "k2" else DenseGPT(config, seed)
    optimizer = MuonClip(model, rate, tau=100.0 if model_name == "k2" else 0.0, ns_dtype=torch.float32)
    rates, stream = schedule(steps, rate), opened.split("train")
    routers = list(model.routers().values()) if model_name == "k2" else []
    begun = time.process_time()
    for step in range(steps):
        ids = torch.from_numpy(stream.batch(step, BATCH, LENGTH, seed))
        optimizer.set_lr(rates.lr(step + 1))
        next_token_loss(model, ids).backward()
        optimizer.step()
        optimizer.zero_grad()
        for router in routers:
            router.balance_(BIAS_RATE)
    seconds = time.process_time() - begun
    loss = losses_by_domain(model, opened.eval_windows("validation", LENGTH, ("natural",), WINDOWS))[""]
    return {
        "model": model_name, "rate": rate, "steps": steps, "seed": seed, "tokens": steps * BATCH * LENGTH,
        "cpu_seconds": seconds, "nats_per_token": loss.nats_per_token, "bits_per_byte": loss.bits_per_byte,
    }  # fmt: skip


def schedule(steps: int, peak: float) -> Schedule:
    """Return the laptop profile's schedule at any length: 2 % warm-up, 58 % constant, 40 % cosine to a tenth."""
    warmup, decay = max(1, steps // 50), steps * 2 // 5
    return Schedule.warmed_up(peak, warmup, ("constant", steps - warmup - decay, None), ("cosine", decay, peak / 10))
