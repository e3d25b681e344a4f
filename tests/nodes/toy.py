"""A model, tokenizer and parameters small enough to fine-tune and reinforce within a test."""

from pathlib import Path

from engine.model.config import K2Config
from engine.model.model import K2Model
from engine.text import bpe
from engine.text.tokenizer import K2Tokenizer

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
