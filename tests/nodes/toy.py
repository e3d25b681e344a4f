"""A model, tokenizer and parameters small enough to fine-tune and reinforce within a test."""

from pathlib import Path

import numpy as np
import polars as pl
import yaml

from engine.model.config import K2Config
from engine.model.model import K2Model
from engine.text import bpe
from engine.text.shard_writer import Entry, ShardWriter
from engine.text.tokenizer import K2Tokenizer
from nodes.tooluse.agents import make_agents
from nodes.tooluse.schema import Parameters as ToolUse
from nodes.tooluse.tasks import make_tasks

VOCABULARY = 300


def tokenizer(directory: Path) -> K2Tokenizer:
    """256 bytes, a few merges, the special tokens."""
    text = ["What is the capital of France? Paris. " * 3, "system user assistant the of and sums 4-1-7=-4 12 34"]
    bpe.save(bpe.train(text, VOCABULARY, 20, 1), directory, 512)
    return K2Tokenizer.load(directory)


def model(seed: int = 0) -> K2Model:
    """Two layers, one of them with four experts."""
    return K2Model(
        K2Config(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=64,
            moe_intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            q_lora_rank=16,
            kv_lora_rank=16,
            qk_nope_head_dim=8,
            qk_rope_head_dim=8,
            v_head_dim=8,
            n_routed_experts=4,
            num_experts_per_tok=2,
            n_shared_experts=1,
            first_k_dense_replace=1,
            routed_scaling_factor=1.5,
            max_position_embeddings=512,
        ),
        seed,
    )


def shards(tok: K2Tokenizer, directory: Path) -> None:
    """A few hundred tokens of natural text to train on, and to validate with."""
    writer = ShardWriter(directory, tok, shard_tokens=1 << 20)
    text = "What is the capital of France? Paris. The sums of the user and the assistant: 12 and 34. "
    for split, copies in (("train", 40), ("validation", 8)):
        ids = np.array([*tok.encode(text * copies), tok.eos_id])
        writer.write(split, "web", "natural", [Entry(f"{split}-web", "web", 0, len(text) * copies, ids)])
    writer.close({"weights": {}})


def tasks() -> pl.DataFrame:
    """A few tool tasks of each split, of one domain."""
    base = yaml.safe_load(Path("conf/base/parameters/tooluse.yml").read_text(encoding="utf-8"))["tooluse"]
    p = ToolUse.model_validate({**base, "tasks": 60})
    return pl.DataFrame([task.to_row() for task in make_tasks(make_agents(p.seed, ["bank"], 6, (2, 2)), p)])
