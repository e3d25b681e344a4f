"""What each training stage trains on in a test: its model, objective and source, on a toy."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engine.model.model import K2Model
from engine.text.shards import TokenShards
from engine.text.tokenizer import K2Tokenizer
from engine.training.batches import Source
from engine.training.examples import Encoded
from engine.training.language import language_modelling
from engine.training.natural import NaturalText
from engine.training.padded import GroupLoss
from engine.training.sources import Examples, Windows
from engine.training.step import Objective
from nodes.rl import rollouts
from nodes.rl.policy import PolicyTraining
from nodes.rl.rewards import Sums, Tools
from tests.nodes import toy
from tests.nodes.rl.test_rollouts import parameters

WEIGHTS = {"chat": 1.0, "trajectory": 2.0, "natural": 0.5}
STAGES = ("pretrain", "sft", "rl", "rl in bf16")
EXAMPLES = {
    "chat": [([5, 6, 7, 8 + i, 9][: 3 + i % 3], [False, True, False, True, True][: 3 + i % 3]) for i in range(9)],
    "trajectory": [([20 + i, *range(30, 38), 50 + i], [False, *[i % 2 == 0] * 8, True]) for i in range(3)],
}


@dataclass(frozen=True)
class Stage:
    """A stage's objective and source, beside the model that it trains."""

    model: K2Model
    objective: Objective
    source: Source
    dtype: str


def inputs(root: Path) -> Path:
    """Write tokenizer and shards under `root`, for stages made from them."""
    toy.shards(toy.tokenizer(root / "tokenizer"), root / "shards")
    return root


def stage(name: str, root: Path, work: Path, weights: torch.dtype = torch.float32) -> Stage:
    """The stage on `inputs`; RL has sampled the responses of its first iteration, of both families, in `work`."""
    tok = K2Tokenizer.load(root / "tokenizer")
    model = toy.model().to(weights)
    natural = NaturalText(root / "shards", tok, 3, 16, 1)
    if name == "pretrain":
        stream = TokenShards.open(root / "shards", tok).split("train")
        return Stage(model, language_modelling, Windows(stream, 4, 16, 1), "float32")
    if name == "sft":
        source = Examples(Encoded(EXAMPLES, 0), {"chat": 5, "trajectory": 1}, 1, natural)
        return Stage(model, GroupLoss(WEIGHTS.__getitem__), source, "float32")
    return reinforcement(model, tok, natural, work, "bfloat16" if "bf16" in name else "float32")


def reinforcement(model: K2Model, tok: K2Tokenizer, natural: NaturalText, work: Path, dtype: str) -> Stage:
    """Six sums of four responses, five of the sums informative, and two tool tasks, in two minibatches."""
    rewards = [0.0] * 4 + [float(i % 3 == 0) for i in range(20)]
    judge: Any = rollouts.penalised
    rollouts.penalised = lambda scores, truncated, penalty: rewards[-len(scores) :]
    ptx = {"weight": 0.1, "chat": 3, "trajectory": 1, "natural": 3, "natural_tokens": 16, "max_tokens": 128}
    tools: Any = parameters().tools.model_dump() | {"tasks": 2, "samples": 3, "max_new_tokens": 6, "tuning_tasks": 2}
    tools |= {"evaluation_tasks": 2, "weight": 0.5}
    sizes = {"prompts": 6, "minibatches": 2, "inner_steps": 4, "iterations": 1, "max_new_tokens": 4}
    p = parameters(**sizes, ptx=ptx, tools=tools, dtype=dtype, temperature_start=1.3)
    try:
        families = [Sums(tok, model.config, p), Tools(tok, toy.tasks().lazy(), p)]
        policy = PolicyTraining(model, families, p, ptx=Encoded(EXAMPLES, 0), natural=natural, work=work)
        source, _ = policy.sample(0)
    finally:
        rollouts.penalised = judge
    return Stage(model, policy.loss, source, dtype)
