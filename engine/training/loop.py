"""The training loop of every stage: batches in, weights and history out, resumable at any kill bit for bit."""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
from torch import Tensor

from engine.errors import UserError
from engine.model.balance import load_floor
from engine.model.model import K2Model
from engine.progress import progress
from engine.training.numerics import autocast, fingerprint, settle
from engine.training.resume import Progress

Batch = Any
"""What `batch_at` gives and `loss_fn` takes. A mapping of tensors is moved to the model's device and can be split into
micro-batches along axis 0 (0-d tensors go to each whole); anything else reaches `loss_fn` as it is."""
LossFn = Callable[[Batch], tuple[Tensor, dict[str, float | Tensor]]]
Row = dict[str, Any]
HISTORY, TIMING = "history.jsonl", "timing.jsonl"


class Optimizer(Protocol):
    """What the loop asks of an optimizer; `MuonClip` is one."""

    def set_lr(self, lr: float) -> None: ...  # noqa: D102
    def step(self) -> dict[str, float]: ...  # noqa: D102
    def zero_grad(self) -> None: ...  # noqa: D102
    def state_dict(self) -> dict[str, Tensor]: ...  # noqa: D102
    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...  # noqa: D102


@dataclass(frozen=True)
class LoopSettings:
    """How a loop runs. `dtype` is "float32" or "bfloat16" (autocast); `grad_clip` a norm, None for no clipping.

    Every `heads_every` steps the history also holds each head's maximum logit.
    """

    steps: int
    checkpoint_every: int
    seed: int
    threads: int
    dtype: str
    grad_clip: float | None = None
    heads_every: int = 10


def train_loop(
    model: K2Model,
    optimizer: Optimizer,
    batch_at: Callable[[int], Batch],
    loss_fn: LossFn,
    lr_at: Callable[[int], float],
    settings: LoopSettings,
    work: Path,
    title: str,
    *,
    micro_batches: int = 1,
    after_step: Callable[[int, Row], None] | None = None,
    bias_rate_at: Callable[[int], float] | None = None,
) -> Path:
    """Train `settings.steps` steps, or what is left of them, and return the history file, one JSON row a step.

    `batch_at(step)` and `lr_at(step)` count from 0 and must be pure: of the step, and for RL of the model as it
    stands before the step (then make `checkpoint_every` a multiple of the steps that share a batch). `loss_fn`
    gives the mean loss of a micro-batch and figures for the row; both are averaged over micro-batches, so a
    masked loss must divide by a 0-d tensor of the batch rather than by its own mask. `after_step(completed, row)`
    may add figures to the row; it must not change the model. `bias_rate_at(step)` is the router bias's speed u
    (None: the biases stay). The model is trained in place; after a kill, call again with the same arguments.

    Raises UserError naming the step where loss or gradient is not finite; the last checkpoint stays.
    """
    settle(settings.threads)
    work.mkdir(parents=True, exist_ok=True)
    history = work / HISTORY
    history.touch()
    store = Progress(work / "checkpoints", history, fingerprint(settings.threads, settings.dtype))
    done = _resume(model, optimizer, store)
    model.train()
    clock = _Clock(work / TIMING)
    with history.open("ab") as file, progress(title, settings.steps) as bar:
        bar.advance(done)
        for step in range(done, settings.steps):
            batch = batch_at(step)
            model.train()
            lr = lr_at(step)
            optimizer.set_lr(lr)
            row = {"step": step + 1, "lr": lr} | _backward(model, batch, loss_fn, settings, micro_batches)
            _check_finite(row, title)
            heads = _heads(model) if (step + 1) % settings.heads_every == 0 else {}
            row |= optimizer.step() | heads | _balance(model, bias_rate_at(step) if bias_rate_at else 0.0)
            optimizer.zero_grad()
            if after_step is not None:
                after_step(step + 1, row)
            file.write((json.dumps(row) + "\n").encode())
            rate, left = clock.tick(step + 1, _tokens(batch), settings.steps)
            bar.advance(1, loss=f"{row['loss']:.3f}", tok_s=f"{rate:,.0f}", left=f"{left:.0f}s")
            if (step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps:
                _checkpoint(model, optimizer, store, file, step + 1)
    model.eval()
    return history


def _resume(model: K2Model, optimizer: Optimizer, store: Progress) -> int:
    """Take up the latest checkpoint, if any; the number of completed steps."""
    saved = store.latest()
    if saved is None:
        return 0
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}}
    for name, tensor in saved.tensors.items():
        part, _, rest = name.partition(":")
        parts[part][rest] = tensor
    model.load_state_dict(parts["model"])
    optimizer.load_state_dict(parts["optimizer"])
    return saved.step


def _checkpoint(model: K2Model, optimizer: Optimizer, store: Progress, file: BinaryIO, step: int) -> None:
    file.flush()
    os.fsync(file.fileno())
    tensors = {f"model:{name}": tensor for name, tensor in model.state_dict().items()}
    store.save(step, tensors | {f"optimizer:{name}": tensor for name, tensor in optimizer.state_dict().items()})


def _split(batch: Batch, parts: int, device: torch.device) -> Iterator[Batch]:
    if not (isinstance(batch, Mapping) and all(isinstance(value, Tensor) for value in batch.values())):
        if parts > 1:
            raise ValueError("only a mapping of tensors can be split into micro-batches")
        yield batch
        return
    for part in range(parts):
        micro = {}
        for name, tensor in batch.items():
            size, odd = divmod(tensor.shape[0], parts) if tensor.ndim else (0, 0)
            if odd:
                raise UserError(
                    f"a batch of {tensor.shape[0]} rows does not split into {parts} micro-batches; "
                    "make the batch size a multiple of it"
                )
            micro[name] = (tensor[part * size : (part + 1) * size] if tensor.ndim else tensor).to(device)
        yield micro


def _backward(
    model: K2Model,
    batch: Batch,
    loss_fn: LossFn,
    settings: LoopSettings,
    parts: int,
) -> Row:
    """Gradients of the mean loss over all micro-batches; loss, auxiliary figures and gradient norm for the row."""
    device = next(model.parameters()).device
    sums: dict[str, float] = {}
    for micro in _split(batch, parts, device):
        with autocast(settings.dtype, device.type):
            loss, aux = loss_fn(micro)
        (loss / parts).backward()
        for name, value in ({"loss": loss} | aux).items():
            figure = float(value.detach() if isinstance(value, Tensor) else value)
            sums[name] = sums.get(name, 0.0) + figure / parts
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if settings.grad_clip is not None:
        torch.nn.utils.clip_grads_with_norm_(list(model.parameters()), settings.grad_clip, norm)
    return {**sums, "grad_norm": float(norm)}


def _check_finite(row: Row, title: str) -> None:
    """Stop before the step that would spoil the weights."""
    for name in ("loss", "grad_norm"):
        if not math.isfinite(row[name]):
            raise UserError(f"{title}: {name} is {row[name]} at step {row['step']}; lower the learning rate, run again")


def _heads(model: K2Model) -> Row:
    """Each head's maximum logit, one list a layer, before the optimizer resets them."""
    return {"max_logit_heads": [[round(s, 3) for s in a.max_logit_H.tolist()] for a in model.attentions()]}


def _balance(model: K2Model, rate: float) -> Row:
    """Move every router's bias once; worst and mean of the layers' max/mean expert load, and what chance would give."""
    routers = list(model.routers().values())
    if not routers:
        return {}
    tokens = int(routers[0].load_E.sum()) // routers[0].k
    floor = load_floor(tokens, routers[0].load_E.numel(), routers[0].k)
    loads = [router.balance_(rate) for router in routers]
    return {"expert_load_max": max(loads), "expert_load_mean": sum(loads) / len(loads), "expert_load_floor": floor}


def _tokens(batch: Batch) -> int:
    """Token positions of a batch, for the speed shown: of its largest tensor, or of its groups together."""
    if isinstance(batch, Tensor):
        return batch.numel()
    if isinstance(batch, Mapping):
        sizes = [_tokens(value) for value in batch.values()]
        alike = all(isinstance(value, Tensor) for value in batch.values())
        return max(sizes, default=0) if alike else sum(sizes)
    return _tokens(getattr(batch, "ids_BT", {}))


class _Clock:
    """Tokens a second, kept apart from the history: it differs from run to run."""

    EVERY = 50

    def __init__(self, path: Path) -> None:
        self.path = path
        self.start = self.mark = time.monotonic()
        self.tokens = self.steps = self.marked_tokens = 0

    def tick(self, step: int, tokens: int, total: int) -> tuple[float, float]:
        """Count a step; tokens a second so far and seconds left."""
        now = time.monotonic()
        self.tokens += tokens
        self.steps += 1
        if step % self.EVERY == 0 or step == total:
            rate = (self.tokens - self.marked_tokens) / max(now - self.mark, 1e-9)
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step, "tokens_per_second": round(rate, 1)}) + "\n")
            self.mark, self.marked_tokens = now, self.tokens
        elapsed = max(now - self.start, 1e-9)
        return self.tokens / elapsed, elapsed / self.steps * (total - step)
