"""Expert load with the router's bias and without it, on held-out text after a short training; no auxiliary loss."""

import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.report import Row
from engine.model.balance import load_floor
from engine.model.config import K2Config
from engine.model.model import K2Model
from engine.model.parameters import gate_factor
from engine.optim.schedule import Schedule
from engine.text import bpe
from engine.text.tokenizer import K2Tokenizer
from engine.training.language import make_optimizer, next_token_loss
from engine.training.settings import OptimizerSettings

EXPERTS, K = 64, 8
VOCABULARY, LENGTH, BATCH = 1024, 128, 16
HELD_OUT = 65_536
RATE = 1e-3
"""u of DeepSeek-V3 and Moonlight."""
SCHEDULE = Schedule.warmed_up(0.01, 20, ("constant", 130, None), ("cosine", 100, 0.001))
MUST = 1.25

CONFIG = K2Config(
    vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, moe_intermediate_size=16, num_hidden_layers=3,
    num_attention_heads=4, q_lora_rank=32, kv_lora_rank=16, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16,
    n_routed_experts=EXPERTS, num_experts_per_tok=K, n_shared_experts=1, first_k_dense_replace=1,
    routed_scaling_factor=gate_factor(EXPERTS, K), max_position_embeddings=LENGTH,
)  # fmt: skip
OPTIMIZER = OptimizerSettings(
    weight_decay=0.1, momentum=0.95, tau=100.0, adamw_lr_factor=1.0, newton_schulz_dtype="float32"
)


@dataclass(frozen=True)
class Text:
    """Windows of LENGTH + 1 tokens of the standard library's sources, for training and held out."""

    train: Tensor
    held_out: Tensor


def text(directory: Path) -> Text:
    """Read, tokenise and shuffle the sources; every document ends in [EOS]."""
    sources = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    documents = [path.read_text(encoding="utf-8", errors="replace") for path in sources]
    bpe.save(bpe.train(documents[::8], VOCABULARY, 20, 1), directory, LENGTH)
    tok = K2Tokenizer.load(directory)
    ids = np.concatenate([[*tokens, tok.eos_id] for tokens in tok.encode_batch(documents)])
    windows = torch.from_numpy(ids[: len(ids) // (LENGTH + 1) * (LENGTH + 1)].reshape(-1, LENGTH + 1))
    windows = windows[torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))]
    kept = HELD_OUT // LENGTH
    return Text(windows[kept:], windows[:kept])


def trained(data: Text, rate: float, seed: int) -> K2Model:
    """Return a model after SCHEDULE.total steps in which its biases move by `rate`."""
    model = K2Model(CONFIG, seed)
    optimizer = make_optimizer(model, SCHEDULE.peak, OPTIMIZER)
    for step in range(SCHEDULE.total):
        start = step * BATCH % (len(data.train) - BATCH)
        optimizer.set_lr(SCHEDULE.lr(step + 1))
        next_token_loss(model, data.train[start : start + BATCH]).backward()
        optimizer.step()
        optimizer.zero_grad()
        for router in model.routers().values():
            router.balance_(rate)
    return model.eval()


@torch.no_grad()
def load_of(model: K2Model, windows: Tensor) -> float:
    """Return the largest max/mean load of a layer over the windows' tokens."""
    loads = {layer: torch.zeros(EXPERTS, dtype=torch.int64) for layer in model.routers()}

    def counting(load: Tensor) -> Callable[[Any, Any, tuple[Tensor, Tensor]], None]:
        def count(_module: Any, _given: Any, out: tuple[Tensor, Tensor]) -> None:
            load.add_(torch.bincount(out[0].flatten(), minlength=EXPERTS))

        return count

    for layer, router in model.routers().items():
        router.register_forward_hook(counting(loads[layer]))
    for batch in windows.split(64):
        model.hidden(batch[:, :-1])
    return max(float(load.max() / load.double().mean()) for load in loads.values())


def rows(repeats: int, seed: int = 0) -> list[Row]:
    """Return rows: load with the bias beside load without it and beside the multinomial floor."""
    with TemporaryDirectory() as directory:
        data = text(Path(directory))
    off, on = (load_of(trained(data, rate, seed), data.held_out) for rate in (0.0, RATE))
    floor = load_floor(HELD_OUT, EXPERTS, K)
    case = f"{EXPERTS} experts top-{K}, {SCHEDULE.total} steps, u = {RATE:g}"
    half = 1 + (off - 1) / 2
    return [
        Row(f"{case}: max/mean load", on, "x", "floor of chance", floor, f"at most {MUST}", on <= MUST),
        Row(f"{case}: excess over even load", on - 1, "x", "bias off", off - 1, "at most half", on <= half),
    ]
