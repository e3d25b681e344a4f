"""The K2 model: embedding, blocks of latent attention and mixture of experts, untied head.

Shapes: B batch, T positions, D model channels, V vocabulary.
"""

import hashlib
from typing import cast

import torch
from torch import Tensor, nn

from engine.model.attention import LatentAttention
from engine.model.cache import LatentCache
from engine.model.config import K2Config
from engine.model.layers import Linear, RMSNorm, SwiGLU, WideBuffers
from engine.model.moe import MoE, Router
from engine.model.rope import inverse_frequencies, rotation, rotation_magnitude
from engine.parallel.layout import Part
from kernels.kept import Memory, keeping, micro_batch


class Block(nn.Module):
    """x + attention(norm x), then x + feed-forward(norm x); the first `first_k_dense_replace` blocks are dense."""

    def __init__(self, config: K2Config, layer: int, experts: range | None = None) -> None:
        super().__init__()
        self.layer = layer
        self.memory: Memory | None = None
        """What its forwards keep for their backwards, if not everything; see `K2Model.keep`."""
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = LatentAttention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        dense = layer < config.first_k_dense_replace
        self.mlp = SwiGLU(config.hidden_size, config.intermediate_size) if dense else MoE(config, experts)

    def forward(
        self,
        x_BTD: Tensor,
        turn: Tensor,
        cache: LatentCache | None,
        visible: Tensor | None,
        valid_BT: Tensor | None = None,
    ) -> Tensor:
        """Apply the block to (B, T, D)."""
        if self.memory is None or not torch.is_grad_enabled():
            return self._apply_to(x_BTD, turn, cache, visible, valid_BT)
        with keeping(self.memory, self.parameters()):
            return self._apply_to(x_BTD, turn, cache, visible, valid_BT)

    def _apply_to(
        self, x_BTD: Tensor, turn: Tensor, cache: LatentCache | None, visible: Tensor | None, valid_BT: Tensor | None
    ) -> Tensor:
        attended = self.self_attn(self.input_layernorm(x_BTD), turn, cache, self.layer, visible, valid_BT)
        x_BTD, x = self.post_attention_layernorm.added(x_BTD, attended)
        return x_BTD + cast(Tensor, self.mlp(x, valid_BT) if isinstance(self.mlp, MoE) else self.mlp(x))


class K2Model(WideBuffers):
    """Kimi K2's architecture at any size. Each weight depends on `seed` and its name; seed None leaves them unset.

    It is built on torch's current device (`with device():`), on which all that it is given must be too. With `part` it
    holds that part of the model only, under the names and with the weights that the whole model has.
    """

    frequencies_P: Tensor
    embed_tokens: nn.Embedding
    norm: RMSNorm
    lm_head: Linear

    def __init__(self, config: K2Config, seed: int | None = 0, part: Part | None = None) -> None:
        super().__init__()
        self.config, self.part = config, part
        if part is None or part.embeds:
            with torch.no_grad():
                weight = torch.empty(config.vocab_size, config.hidden_size)
                self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, _weight=weight)
        layers = range(config.num_hidden_layers) if part is None else part.layers
        experts = None if part is None else part.experts
        self.layers = nn.ModuleDict({str(layer): Block(config, layer, experts) for layer in layers})
        if part is None or part.heads:
            self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
            self.lm_head = Linear(config.hidden_size, config.vocab_size)
        self.register_buffer("frequencies_P", inverse_frequencies(config).to(self.device), persistent=False)
        self.magnitude = rotation_magnitude(config)
        if seed is not None:
            self._initialise(seed)

    @torch.no_grad()
    def _initialise(self, seed: int) -> None:
        """Draw every matrix from N(0, initializer_range²); gains stay 1. Adding a layer does not change other draws.

        Drawn on the CPU, whose stream is the same for every device, one matrix, or stack of all experts, at a time.
        """
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1 and not parameter.is_meta:
                key = hashlib.blake2b(f"{seed}/init/{name}".encode(), digest_size=8).digest()
                generator = torch.Generator("cpu").manual_seed(int.from_bytes(key, "big") >> 1)
                stack = parameter.ndim == 3
                whole = (self.config.n_routed_experts, *parameter.shape[1:]) if stack else parameter.shape
                drawn = torch.empty(whole, dtype=parameter.dtype, device="cpu")
                drawn.normal_(std=self.config.initializer_range, generator=generator)
                own = slice(self.part.experts.start, self.part.experts.stop) if stack and self.part else slice(None)
                parameter.copy_(drawn[own])

    @property
    def device(self) -> torch.device:
        """The device of its weights."""
        return next(self.parameters()).device

    @property
    def blocks(self) -> list[Block]:
        """The blocks of the layers that it holds, in order."""
        return [cast(Block, block) for block in self.layers.values()]

    def keep(self, memory: Memory | None) -> None:
        """Let the blocks' forwards keep what `memory` says for their backwards; None: all that autograd saves."""
        for block in self.blocks:
            block.memory = memory

    def hidden(
        self,
        ids_BT: Tensor,
        cache: LatentCache | None = None,
        positions: Tensor | None = None,
        valid_BT: Tensor | None = None,
    ) -> Tensor:
        """Return the last block's normalised output, (B, T, D), which the head reads.

        With a cache the T tokens follow those in it, and are added to it. `positions` (T or B×T) default to the tokens'
        positions in the sequence. Tokens that are not `valid_BT` (None: all are) are padding: what training forwards
        record, the largest logits and the experts' loads, leaves them out; the output is the same.
        """
        past, new = (cache.length if cache is not None else 0), ids_BT.shape[1]
        if positions is None:
            positions = torch.arange(past, past + new, device=ids_BT.device)
        turn = rotation(positions, self.frequencies_P, self.magnitude)
        visible = cache.visible(new) if cache is not None else None
        x_BTD = self.embed_tokens(ids_BT)
        with micro_batch(self.blocks[0].memory):
            for block in self.blocks:
                x_BTD = block(x_BTD, turn, cache, visible, valid_BT)
        if cache is not None:
            cache.length += new
        return cast(Tensor, self.norm(x_BTD))

    def forward(self, ids_BT: Tensor, cache: LatentCache | None = None, positions: Tensor | None = None) -> Tensor:
        """Return the logits of the next token after each position, (B, T, V). See `hidden`."""
        return cast(Tensor, self.lm_head(self.hidden(ids_BT, cache, positions)))

    def attentions(self) -> list[LatentAttention]:
        """Return the attention of each layer, in order."""
        return [block.self_attn for block in self.blocks]

    def routers(self) -> dict[int, Router]:
        """Return layer number → router, for the layers that have one."""
        return {block.layer: block.mlp.gate for block in self.blocks if isinstance(block.mlp, MoE)}
