"""The passes whose placement is proven: each stage's training node, evaluation with all suites, decoding, export.

Sizes are at most the smoke profile's: a pass shall meet every line, not learn.
"""

import copy
import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
import torch
import torch.distributed as dist
from torch import Tensor

from engine.device import CUDA, device, placed
from engine.model.checkpoint import load_checkpoint, save_checkpoint
from engine.model.export import DTYPES, export_checkpoint
from engine.model.model import K2Model
from engine.model.moe import MoE
from engine.model.parameters import config_from_parameters
from engine.model.rope import inverse_frequencies
from engine.optim.owned import Circle
from engine.parallel.data import Ranks
from engine.parallel.exchange import exchanged_experts
from engine.parallel.layout import Layout
from engine.parallel.mesh import Mesh, laid_out
from engine.parallel.pipeline_stage import Stage
from engine.rollout.enforcer import Enforcer
from engine.rollout.generate import generate, stream
from engine.rollout.rows import plain_rows, row_logprobs
from engine.rollout.teacher import Turns
from engine.text.special import CALLS_BEGIN
from engine.text.tokenizer import K2Tokenizer
from engine.toolworld.specs import load_tools
from engine.training.language import language_modelling, make_optimizer, next_token_loss
from engine.training.padded import GroupLoss, pack_group, pad
from engine.training.readings import Reading, aligned, numbers, read
from engine.training.settings import OptimizerSettings
from engine.training.state import TrainState
from engine.training.step import move
from kernels.deferred import deferring, taken
from kernels.host import to_host
from nodes.evaluate.nodes import evaluate_checkpoints
from nodes.extend.nodes import train_extend
from nodes.pretrain.nodes import train_pretrain
from nodes.rl import rollouts
from nodes.rl.nodes import train_rl
from nodes.sft.nodes import build_examples, train_sft
from tests.nodes import text, toy
from tests.placement.replaced import replaced

CONTEXT = 1024
TASK = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
TWO_STEPS = {"phases": [{"shape": "warmup", "length": 1, "end": 1e-2}, {"shape": "linear", "length": 1, "end": 1e-3}]}
CLIPPING = {"tau": 1e-3}
"""A threshold that every head exceeds."""
FACTS = ("Chile", "Santiago"), ("Peru", "Lima"), ("Japan", "Tokyo"), ("Kenya", "Nairobi"), ("Norway", "Oslo")


class Inputs:
    """What the passes read, made for real on the CPU: tokenizer, shards, checkpoints, tables."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tokenizer, self.shards = text.make(root)
        self.tok = K2Tokenizer.load(self.tokenizer)
        self.base, self.long = (self._checkpoint(length) for length in (64, CONTEXT))

    def _checkpoint(self, context: int) -> Path:
        block = text.parameters("pretrain", "smoke")["model"]
        config = config_from_parameters(block, self.tok.vocab_size, context)
        directory = self.root / f"context-{context}"
        save_checkpoint(directory, K2Model(config, 0), {"stage": "pretrain", "tokenizer": self.tok.digest})
        return directory

    @cached_property
    def documents(self) -> pl.DataFrame:
        """Facts for chats and for the quiz, under the ids of documents that were packed for training."""
        rows = [
            (f"{i:016x}", "train", "knowledge", f"{name}: Government", f"{name} - Government\n\nCapital, name: {city}")
            for i, (name, city) in enumerate(FACTS)
        ]
        table = pl.DataFrame(rows, schema=["id", "split", "domain", "title", "text"], orient="row")
        return table.with_columns(source=pl.lit("atlas"), license=pl.lit("public"), n_bytes=pl.lit(40, dtype=pl.Int64))

    @cached_property
    def examples(self) -> pl.DataFrame:
        """Fine-tuning examples of every kind."""
        messages = json.dumps([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}])
        columns = {"messages": [messages] * 2, "tools": ["[]"] * 2, "split": ["train", "validation"]}
        dialogues = pl.LazyFrame({"id": ["a", "b"], **columns})
        return build_examples(self.documents.lazy(), dialogues, stage("sft", examples={"demonstration": 40}), self.root)

    @cached_property
    def tasks(self) -> pl.LazyFrame:
        """Tasks of the tool world."""
        return toy.tasks().lazy()


def stage(name: str, **changes: Any) -> dict[str, Any]:
    """Return a stage's parameters of the smoke profile with `changes`, and the easiest sums."""
    own = {"task": TASK} if name in ("sft", "rl") else {}
    return text.merge(copy.deepcopy(text.parameters(name, "smoke")), own | changes)


def pretrain(given: Inputs, work: Path) -> None:
    """Two steps in two micro-batches, with clipping of heads and of the gradient, validation and router biases."""
    changes = {"optimizer": CLIPPING | {"grad_clip": 1.0}, "batch_size": 4, "micro_batches": 2, "baseline_orders": [2]}
    validation = {"every": 1, "windows": 2, "final_windows": 4}
    p = stage("pretrain", schedule=TWO_STEPS, validation=validation, **changes)
    train_pretrain(given.tokenizer, given.shards, p, work)


def pretrain_in_bf16(given: Inputs, work: Path) -> None:
    """The same in bf16, with AdamW."""
    changes = {"optimizer": {"kind": "adamw"}, "batch_size": 2, "dtype": "bfloat16", "baseline_orders": [2]}
    validation = {"every": 1, "windows": 2, "final_windows": 4}
    p = stage("pretrain", schedule=TWO_STEPS, validation=validation, **changes)
    train_pretrain(given.tokenizer, given.shards, p, work)


def pretrain_saving_memory(given: Inputs, work: Path) -> None:
    """The same with all that a layout can do to save memory."""
    parts = ("norm", "swiglu", "mla_up", "moe_down")
    with laid_out(Layout(recompute=parts, fp8_storage=True, offload=("activations", "optimizer"))):
        pretrain_in_bf16(given, work)


def extend(given: Inputs, work: Path) -> None:
    """Anneal, length curves of the three scalings, passkey probe."""
    train_extend(given.tokenizer, given.shards, given.base, stage("extend", schedule=TWO_STEPS), work)


def sft(given: Inputs, work: Path) -> None:
    """Two steps on all kinds and natural text, validation losses, pass rates."""
    batch = {"chat": 1, "trajectory": 1, "values": 0, "demonstration": 4}
    p = stage("sft", steps=2, warmup_steps=1, batch=batch, micro_batches=2, tuning_prompts=4, optimizer=CLIPPING)
    train_sft(given.tokenizer, given.long, given.examples.lazy(), given.shards, p, work)


def rl(given: Inputs, work: Path) -> None:
    """An iteration: candidates judged, sums and tool episodes sampled, scored and trained on, with PTX."""
    reinforce(given, work, "float32")


def rl_in_bf16(given: Inputs, work: Path) -> None:
    """The same in bf16, where old log-probabilities are the trainer's own."""
    reinforce(given, work, "bfloat16")


def reinforce(given: Inputs, work: Path, dtype: str) -> None:
    """Run RL's node; every other response is rewarded, so that there is something to learn at once."""
    tools = {"tasks": 2, "tuning_tasks": 1, "evaluation_tasks": 2, "evaluation_samples": 1, "max_new_tokens": 4}
    ptx = {"weight": 0.1, "chat": 1, "trajectory": 1, "natural": 1, "natural_tokens": 16, "max_tokens": 512}
    p = stage(
        "rl", iterations=1, prompts=4, samples=3, tuning_prompts=2, evaluation_prompts=4, max_new_tokens=3,
        tools=tools, ptx=ptx, dtype=dtype, optimizer=CLIPPING,
    )  # fmt: skip
    with replaced(rollouts, "penalised", lambda scores, *_: [float(i % 2) for i in range(len(scores))]):
        train_rl(given.tokenizer, given.long, given.examples.lazy(), given.shards, given.tasks, p, work)


def evaluate(given: Inputs, work: Path) -> None:
    """Every suite, with the tool suite's enforced decoding among them."""
    p = stage(
        "evaluate",
        bits_per_byte={"window": 24, "windows": 2, "batch": 2},
        quiz={"fields": {"Capital, name": "capital"}, "questions": 3, "choices": 3, "max_answer_bytes": 20, "batch": 4},
        arithmetic={"prompts": 4, "max_new_tokens": 3},
        tools={"split": "test", "episodes": 1, "max_new_tokens": 6},
        lengths={"length": 64, "windows": 2, "buckets": 4},
        samples={"texts": ["Chile - "], "chats": ["4-1-7="], "max_new_tokens": 3},
    )
    checkpoints = {f"{name}_checkpoint": given.long for name in ("base", "rl")}
    metrics = {f"{name}_metrics": {} for name in ("extend", "rl")}
    bits = {"bigram_bits_per_byte": 2.5, "validation_bits_per_byte": 2.0}
    evaluate_checkpoints(
        given.tokenizer, given.shards, given.documents.lazy(), given.tasks, p, work,
        **checkpoints, **metrics, pretrain_metrics=bits,
    )  # fmt: skip


def decode(given: Inputs, work: Path) -> None:
    """Prompts of unequal length, greedily, sampled and under the enforcer; and a dialogue's stream."""
    model = load_checkpoint(given.long)
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8], [1, 2, 3]]
    for temperature in (0.0, 1.0):
        generate(model, prompts, 6, temperature, 0, given.tok.im_end_id)
    list(stream(model, prompts[0], 4, 1.0, 0, given.tok.im_end_id))
    enforcer = Enforcer(given.tok, [(list(load_tools().values())[:2], 0)] * len(prompts))
    enforcer.take(1, given.tok.special(CALLS_BEGIN))  # one row is inside of a call, the others may write anything
    generate(model, prompts, 6, 1.0, 0, given.tok.im_end_id, enforcer)


def exchange(given: Inputs, work: Path) -> None:
    """Rows of experts sent to other ranks and back, by a rank that is all of them: a step, a reading, decoding."""
    backend = "cpu:gloo,cuda:nccl" if device().type == CUDA else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        with replaced(MoE, "routed", _exchanged):
            model = load_checkpoint(given.long)
            optimizer = make_optimizer(model, 1e-2, OptimizerSettings.model_validate(stage("pretrain")["optimizer"]))
            next_token_loss(model, placed([list(range(9))], model.device)).backward()
            move(TrainState(model, optimizer), take=True, with_heads=True, bias_rate=1e-3)
            generate(model, [[1, 2, 3], [4, 5, 6, 7, 8]], 3, 0.0, 0, given.tok.im_end_id)
    finally:
        dist.destroy_process_group()


def _exchanged(moe: MoE, x_ND: Tensor, chosen: Tensor, gates: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Apply all experts of a layer as one of its ranks does."""
    return exchanged_experts(x_ND, chosen, gates, gate_up, down, len(gate_up), dist.group.WORLD)


def divide(given: Inputs, work: Path) -> None:
    """Gradients to their owners and weights from them, by a rank that owns all; its step, which clips heads."""
    backend = "cpu:gloo,cuda:nccl" if device().type == CUDA else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        settings = OptimizerSettings.model_validate(stage("pretrain")["optimizer"] | {"tau": 1e-6})
        model = load_checkpoint(given.long)
        with laid_out(Layout(zero=1)), replaced(Mesh, "rows", property(lambda _: Ranks(0, 2))):
            state = TrainState(model, make_optimizer(model, 1e-2, settings))
            next_token_loss(model, placed([list(range(9))], model.device)).backward()
            named = dict(model.named_parameters())
            circle = Circle(dist.group.WORLD, 0, named, {name: [range(len(p))] for name, p in named.items()})
            sums = circle._to_owners({name: p.grad for name, p in named.items() if p.grad is not None})
            circle._from_owners({name: p.detach() for name, p in named.items()})
            for name, gradient in sums.items():
                named[name].grad = gradient
            state.gradients.reduce_()
            state.gradients.clip_((1.0 / (state.gradients.norm() + 1e-6)).clamp(max=1.0))
            move(state, take=True, with_heads=False, bias_rate=0.0)
    finally:
        dist.destroy_process_group()


def stages(given: Inputs, work: Path) -> None:
    """The stages of a pipeline without its messages: readings of every kind, weights' gradients set aside."""
    model = load_checkpoint(given.long).train()
    first = Stage(model, range(1), first=True, last=False, dtype="bfloat16")
    last = Stage(model, range(1, model.config.num_hidden_layers), first=False, last=True, dtype="bfloat16")
    group = pad([([5, 6, 7, 8], [0, 0, 1, 1]), ([9, 10], [0, 1])]).to(model.device)
    turns = Turns(
        *(of.to(model.device) for of in vars(Turns.of([[5, 6], [7]], [0, 1, 0], [[8], [9, 3], [4]], 1.0)).values())
    )
    rows = Reading(*plain_rows(turns), lambda head, y: (row_logprobs(head, y, turns).sum(), {}))
    texts = language_modelling.readings({"ids": placed([list(range(9))] * 2, model.device)})
    readings = [*texts, *GroupLoss(lambda _: 1.0).readings(pack_group("chat", group, 3)), rows]
    with deferring():
        for reading, (ids, valid) in zip(readings, aligned(readings), strict=True):
            height, width = reading.ids_BT.shape
            loss, _ = reading.loss(model.lm_head, last(first(ids, valid), valid)[:height, :width])
            loss.backward()
            taken()()
    numbers([{"loss": loss}])
    read(model, readings, "bfloat16")


def export(given: Inputs, work: Path) -> None:
    """A checkpoint read to the device, written from it, and exported in every format."""
    save_checkpoint(work / "checkpoint", load_checkpoint(given.long), {"tokenizer": given.tok.digest})
    for dtype in DTYPES:
        export_checkpoint(work / "checkpoint", given.tokenizer, work / dtype, dtype)


def resume(given: Inputs, work: Path) -> None:
    """A training's state, read to the host and loaded again, as from a checkpoint: after a step not taken and one."""
    model = load_checkpoint(given.base)
    optimizer = make_optimizer(model, 1e-2, OptimizerSettings.model_validate(stage("pretrain")["optimizer"]))
    state = TrainState(model, optimizer)
    for step in (1, 2):
        next_token_loss(model, placed([list(range(9))], model.device)).backward()
        move(state, take=step == 2, with_heads=True, bias_rate=1e-3)
        tensors = state.tensors()
        kept = {name: torch.from_numpy(value.copy()) for name, value in zip(tensors, to_host(*tensors.values()))}
        state.load(step, kept, "the state")


PASSES: dict[str, Callable[[Inputs, Path], None]] = {
    run.__name__: run
    for run in (
        pretrain,
        pretrain_in_bf16,
        pretrain_saving_memory,
        extend,
        sft,
        rl,
        rl_in_bf16,
        resume,
        evaluate,
        decode,
        exchange,
        divide,
        stages,
        export,
    )
}


def planted_buffer(given: Inputs, work: Path) -> None:
    """A defect: rotary frequencies stay on the CPU, as they did in K2Model once."""
    model = load_checkpoint(given.base)
    model.frequencies_P = inverse_frequencies(model.config)
    model(placed([[1, 2, 3]], model.device))


def unseen_read(given: Inputs, work: Path) -> None:
    """A defect: the host reads a number past the seam."""
    logits = load_checkpoint(given.base)(placed([[1, 2, 3]], device()))
    float(logits.detach().sum())


def unseen_mask(given: Inputs, work: Path) -> None:
    """A defect: how many numbers a mask selects is known to the device alone."""
    logits = load_checkpoint(given.base)(placed([[1, 2, 3]], device()))
    logits[logits > 0].sum()


def unseen_copy(given: Inputs, work: Path) -> None:
    """A defect: a whole tensor is copied to the host past the seam."""
    load_checkpoint(given.base)(placed([[1, 2, 3]], device())).to("cpu", copy=True)


def foreign_indices(given: Inputs, work: Path) -> None:
    """A defect: indices stay on the CPU, which torch would copy at each use."""
    load_checkpoint(given.base).norm.weight[torch.tensor([1, 2])].sum()


DEFECTS: dict[str, Callable[[Inputs, Path], None]] = {
    run.__name__: run for run in (planted_buffer, unseen_read, unseen_mask, unseen_copy, foreign_indices)
}
"""Passes that must fail."""
