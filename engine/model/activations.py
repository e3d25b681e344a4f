"""The bytes that a block's forward keeps for its backward, tensor by tensor and by switch of the layout; without torch.

A table of what autograd saves (kernels/kept.py lets a layout reduce it); tests measure it on a small model. The model's
weights, autocast's copies of them, and the rotation table, which all layers share, are not counted.

Letters: D model channels, H heads, E and V channels of a query and a value head, F hidden channels of a feed-forward.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass

from engine.model.config import K2Config

FP8_BLOCK = 128
"""The numbers of a row that share a scale in fp32."""
CPU_BLOCK = 64
"""The queries of a block in the CPU's attention (kernels/latent_attention.py)."""


@dataclass(frozen=True)
class Types:
    """The bytes of a number between blocks (`stream`), and of one that a matrix product reads or writes (`operand`)."""

    stream: int
    operand: int


FP32, AUTOCAST, BF16 = Types(4, 4), Types(4, 2), Types(2, 2)
"""A model in fp32, one in fp32 under autocast to bf16 (`dtype: bfloat16`), and one in bf16."""


@dataclass(frozen=True)
class Saved:
    """A saved tensor: `numbers` a token in rows of `width`, the part whose recomputation drops it, if any, and whether
    FP8 storage reduces it.
    """

    name: str
    numbers: float
    itemsize: int
    part: str = ""
    width: int = 0

    def bytes(self, recompute: Collection[str] = (), fp8: bool = False) -> float:
        """Return the bytes a token under these switches."""
        if self.part in recompute:
            return 0.0
        if fp8 and self.width:
            return self.numbers * (1 + 4 * math.ceil(self.width / FP8_BLOCK) / self.width)
        return self.numbers * self.itemsize


def saved_by_block(config: K2Config, layer: int, types: Types, length: int, fused: bool, ep: int = 1) -> list[Saved]:
    """Return what the block of a layer saves for sequences of `length` tokens.

    `fused`: as a GPU's kernels compute it (kernels/gpu/); else as a CPU does with at least two rows, which keeps the
    weights of attention up to a size (kernels/latent_attention.py, KEEP). Experts in `ep` parts are taken as evenly
    loaded.
    """
    D = config.hidden_size
    attention = [Saved("block input", D, types.stream), *_norm("input norm", D, types, readers=2)]
    attention += _attention(config, types.operand, length, fused)
    feed = [Saved("after attention", D, types.stream)]
    if layer < config.first_k_dense_replace:
        feed += _norm("post norm", D, types, readers=2)
        return attention + feed + _swiglu("dense", config.intermediate_size, types.operand, fused)
    feed += _norm("post norm", D, types, readers=2)
    if types.operand != 4:
        feed.append(Saved("post norm for the router", D, 4, "norm"))
    shared = _swiglu("shared", config.moe_intermediate_size * config.n_shared_experts, types.operand, fused)
    return attention + feed + _routed(config, types.operand, fused, ep) + shared


def _norm(name: str, width: int, types: Types, readers: int) -> list[Saved]:
    """Return what a norm saves besides its input; autocast copies its output for each product that reads it."""
    copies = 1 if types.stream == types.operand else readers
    return [Saved(f"{name}, 1 / rms", 1, 4), Saved(name, copies * width, types.operand, "norm")]


def _attention(c: K2Config, operand: int, length: int, fused: bool) -> list[Saved]:
    H, E, V = c.num_attention_heads, c.qk_head_dim, c.v_head_dim
    out = [Saved("latent and rotary key", c.kv_lora_rank + c.qk_rope_head_dim, operand)]
    out += _norm("latent norm", c.kv_lora_rank, Types(operand, operand), 1)
    if c.q_lora_rank is not None:
        out.append(Saved("query latent", c.q_lora_rank, operand))
        out += _norm("query norm", c.q_lora_rank, Types(operand, operand), 1)
    itemsize, keys = (operand, c.qk_nope_head_dim) if fused else (4, E)  # a GPU's kernels rotate the shared key again
    out.append(Saved("queries", H * E, itemsize, "mla_up" if c.q_lora_rank is not None else ""))
    out += [Saved("keys", H * keys, itemsize, "mla_up"), Saved("values", H * V, itemsize, "mla_up")]
    if fused:
        out.append(Saved("log of the softmax's sum", H, 4))
    else:
        out.append(Saved("attention weights", H * _weights(length) / length, 4))
    return [*out, Saved("attention's output", H * V, operand)]


def _weights(length: int) -> int:
    """Return the number of attention weights of one head on a CPU: of each block of queries, those up to its end."""
    stops = [min(start + CPU_BLOCK, length) for start in range(0, length, CPU_BLOCK)]
    return sum((stop - start) * stop for start, stop in zip(range(0, length, CPU_BLOCK), stops, strict=True))


def _swiglu(name: str, width: int, operand: int, fused: bool) -> list[Saved]:
    return [
        Saved(f"{name} gate", width, operand, width=width),
        Saved(f"{name} up", width, operand, width=width),
        *([] if fused else [Saved(f"{name} silu(gate)", width, operand, "swiglu")]),
        Saved(f"{name} silu(gate) · up", width, operand, "swiglu"),
    ]


def _routed(c: K2Config, operand: int, fused: bool, ep: int) -> list[Saved]:
    """Return what router and routed experts save. The gate scales the down projection's input, so its output is not.
    A GPU's backward of SwiGLU makes that input again in any case.

    Each token has a row for each of its experts: on one rank a copy of the norm's output, which is made again with it;
    from other ranks it comes by an all-to-all, and is kept.
    """
    k, D, F = c.num_experts_per_tok, c.hidden_size, c.moe_intermediate_size
    return [
        Saved("router's scores", c.n_routed_experts, 4),
        Saved("chosen experts", k, 8),
        Saved("their scores and the sum", k + 1, 4),
        Saved("gates of rows", k, operand),
        Saved("order and place of rows", 2 * k, 8),
        *([Saved("order, place and expert of rows sent", 3 * k, 8)] if ep > 1 else []),
        Saved("expert input", k * D, operand, "norm" if ep == 1 else "", width=D),
        Saved("expert gate and up", k * 2 * F, operand, width=2 * F),
        *([] if fused else [Saved("expert silu(gate) · up", k * F, operand, "swiglu")]),
    ]


def bytes_per_token(
    config: K2Config,
    layer: int,
    types: Types,
    length: int,
    *,
    recompute: Collection[str] = (),
    fp8: bool = False,
    fused: bool = True,
    ep: int = 1,
) -> float:
    """Return the bytes a token that a layer's block keeps for its backward, with `length` tokens a row."""
    return sum(each.bytes(recompute, fp8) for each in saved_by_block(config, layer, types, length, fused, ep))
