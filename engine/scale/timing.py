"""How long a chunk's work and a message take on a machine."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from engine.model.config import K2Config
from engine.model.flops import flops_per_token, matmuls
from engine.scale.machines import Gpu
from engine.scale.traffic import Message


@dataclass(frozen=True)
class Rates:
    """What a GPU sustains while it works, in FLOP/s, and the share of its all-to-alls that this hides."""

    linear: float
    attention: float
    hidden: float


@dataclass(frozen=True)
class Work:
    """FLOPs of one token's forward in some layers: in linear maps, in attention, and what the backward repeats."""

    linear: float = 0.0
    attention: float = 0.0
    repeated: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.linear + other.linear, self.attention + other.attention, self.repeated + other.repeated)

    def __mul__(self, factor: float) -> "Work":
        return Work(self.linear * factor, self.attention * factor, self.repeated * factor)

    def seconds(self, kind: str, rates: Rates) -> float:
        """Return the seconds of a forward (F), a backward (B), or its part for the inputs (I) or the weights (W).

        A backward has each linear product twice, once for each; attention has no weights.
        """
        linear = {"F": 1, "B": 2, "I": 1, "W": 1}[kind] * self.linear
        attention = {"F": 1, "B": 2, "I": 2, "W": 0}[kind] * self.attention
        repeated = self.repeated if kind in {"B", "I"} else 0
        return (linear + repeated) / rates.linear + attention / rates.attention


def layer_work(config: K2Config, layer: int, length: int, recompute: Iterable[str]) -> Work:
    """Return the work of one layer for a token of sequences of `length` tokens."""
    c = config
    linear: dict[str, float] = defaultdict(float)
    for product in matmuls(c):
        linear[product.block] += product.flops
    sparse = c.num_hidden_layers - c.first_k_dense_replace
    own = linear["attention"] / c.num_hidden_layers
    if layer < c.first_k_dense_replace:
        own += linear["dense feed-forward"] / c.first_k_dense_replace
    else:
        own += sum(linear[block] for block in ("router and bias", "routed experts", "shared experts")) / sparse
    attention = flops_per_token(c, length).attention / c.num_hidden_layers
    return Work(own, attention, _repeated(c) if "mla_up" in recompute else 0.0)


def _repeated(c: K2Config) -> float:
    """Return the FLOPs of the MLA up-projections, of queries and of keys and values."""
    queries = 0 if c.q_lora_rank is None else c.q_lora_rank * c.num_attention_heads * c.qk_head_dim
    return 2.0 * (queries + c.kv_lora_rank * c.num_attention_heads * (c.qk_nope_head_dim + c.v_head_dim))


def head_work(config: K2Config) -> Work:
    """Return the work of the head for a token."""
    return Work(2.0 * config.hidden_size * config.vocab_size)


def seconds(message: Message, gpu: Gpu, gpus_per_node: int) -> float:
    """Return the seconds of a rank's messages of a step.

    Ranks are numbered node by node. What stays in the node takes its links, what leaves it the network card, at once.
    """
    if message.span <= gpus_per_node:
        return message.bytes / gpu.node_link
    if message.stride >= gpus_per_node:
        return message.bytes / gpu.cluster_link
    if not message.has_kind("expert"):  # a ring is as fast as its slowest link
        return message.bytes / gpu.cluster_link
    inside = (gpus_per_node // message.stride - 1) / (message.size - 1)
    return max(message.bytes * inside / gpu.node_link, message.bytes * (1 - inside) / gpu.cluster_link)
