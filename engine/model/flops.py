"""FLOPs per token, from the shapes of the matrix products in a forward (k2-facts 1.5).

One multiply-add is two FLOPs. Element-wise work (norms, softmax, rotation) is left out, as is usual: it is below 1 %.
"""

from dataclasses import dataclass

from engine.model.config import K2Config

BACKWARD = 2
"""A backward has two products of the size of each forward one: for the weight and for the input."""


@dataclass(frozen=True)
class MatMul:
    """`times` products of one token's row of `inputs` numbers with an `inputs` × `outputs` matrix."""

    block: str
    inputs: int
    outputs: int
    times: int

    @property
    def flops(self) -> int:
        """The FLOPs of all these products, for one token."""
        return 2 * self.inputs * self.outputs * self.times


@dataclass(frozen=True)
class Flops:
    """FLOPs per token of one forward: `linear` in weight matrices, `attention` in scores and mixed values."""

    linear: int
    attention: int

    @property
    def forward(self) -> int:
        """The FLOPs of a forward."""
        return self.linear + self.attention

    @property
    def training(self) -> int:
        """The FLOPs of a forward and its backward, without recomputation."""
        return (1 + BACKWARD) * self.forward


def matmuls(c: K2Config) -> list[MatMul]:
    """Return every weight matrix that one token is multiplied by, without the input embedding (a lookup)."""
    D, H, L = c.hidden_size, c.num_attention_heads, c.num_hidden_layers
    sparse = L - c.first_k_dense_replace
    queries = (
        [MatMul("attention", D, H * c.qk_head_dim, L)]
        if c.q_lora_rank is None
        else [
            MatMul("attention", D, c.q_lora_rank, L),
            MatMul("attention", c.q_lora_rank, H * c.qk_head_dim, L),
        ]
    )
    return [
        *queries,
        MatMul("attention", D, c.kv_lora_rank + c.qk_rope_head_dim, L),
        MatMul("attention", c.kv_lora_rank, H * (c.qk_nope_head_dim + c.v_head_dim), L),
        MatMul("attention", H * c.v_head_dim, D, L),
        MatMul("dense feed-forward", D, c.intermediate_size, 3 * c.first_k_dense_replace),
        MatMul("router and bias", D, c.n_routed_experts, sparse),
        MatMul("routed experts", D, c.moe_intermediate_size, 3 * c.num_experts_per_tok * sparse),
        MatMul("shared experts", D, c.moe_intermediate_size * c.n_shared_experts, 3 * sparse),
        MatMul("LM head", D, c.vocab_size, 1),
    ]


def flops_per_token(config: K2Config, sequence_length: int) -> Flops:
    """Return FLOPs per token, averaged over a causal sequence of `sequence_length` tokens.

    A token sees itself and its past, (S + 1)/2 keys on average; a kernel that computes all S² scores and masks half of
    them executes up to twice the attention counted here.
    """
    c = config
    channels = c.num_attention_heads * (c.qk_head_dim + c.v_head_dim)
    attention = c.num_hidden_layers * channels * (sequence_length + 1)  # 2 · channels · (S + 1)/2
    return Flops(sum(product.flops for product in matmuls(c)), attention)
