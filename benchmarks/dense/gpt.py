"""The dense baseline: a GPT with full heads, rotary positions, SwiGLU, RMSNorm and an untied head.

Shapes: B rows, T positions, D channels, H heads of E channels.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.model.config import K2Config
from engine.model.flops import matmuls
from engine.model.layers import Linear, RMSNorm, SwiGLU
from kernels.latent_attention import rotate

EPS = 1e-6


def active_matmul_weights(config: K2Config) -> int:
    """Return the number of weights that multiply one token in a K2 model, without the head and the embedding."""
    return sum(product.flops // 2 for product in matmuls(config) if product.block != "LM head")


class DenseBlock(nn.Module):
    """A block: x + attention(norm x), then x + SwiGLU(norm x)."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = RMSNorm(width, EPS), RMSNorm(width, EPS)
        self.qkv_proj = nn.ModuleList(Linear(width, width) for _ in range(3))
        self.o_proj = Linear(width, width)
        self.mlp = SwiGLU(width, hidden)

    def forward(self, x_BTD: Tensor, turn_TP: Tensor) -> Tensor:
        """Return the block's output, (B, T, D) as the input."""
        y = self.attention_norm(x_BTD)
        q, k, v = (proj(y).unflatten(-1, (self.heads, -1)) for proj in self.qkv_proj)
        q, k = rotate(q, turn_TP[:, None]), rotate(k, turn_TP[:, None])
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x_BTD = x_BTD + self.o_proj(mixed.transpose(1, 2).flatten(-2))
        return x_BTD + cast(Tensor, self.mlp(self.mlp_norm(x_BTD)))


class DenseGPT(nn.Module):
    """A GPT whose blocks hold `active_matmul_weights` of `config` between them, at its width, depth and vocabulary."""

    def __init__(self, config: K2Config, seed: int) -> None:
        super().__init__()
        D, layers = config.hidden_size, config.num_hidden_layers
        hidden = round((active_matmul_weights(config) / layers - 4 * D * D) / (3 * D))
        self.channels = D // config.num_attention_heads
        self.theta = config.rope_theta
        self.embed_tokens = nn.Embedding(config.vocab_size, D)
        self.layers = nn.ModuleList(DenseBlock(D, config.num_attention_heads, hidden) for _ in range(layers))
        self.norm = RMSNorm(D, EPS)
        self.lm_head = Linear(D, config.vocab_size)
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=config.initializer_range, generator=draw)

    def hidden(self, ids_BT: Tensor) -> Tensor:
        """Return the head's input, (B, T, D)."""
        frequencies_P = self.theta ** (-torch.arange(0, self.channels, 2) / self.channels)
        angles_TP = torch.arange(ids_BT.shape[1])[:, None] * frequencies_P
        turn_TP = torch.polar(torch.ones_like(angles_TP), angles_TP)
        x_BTD = self.embed_tokens(ids_BT)
        for block in self.layers:
            x_BTD = block(x_BTD, turn_TP)
        return cast(Tensor, self.norm(x_BTD))

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Return the next token's logits after each position, (B, T, V)."""
        return cast(Tensor, self.lm_head(self.hidden(ids_BT)))
