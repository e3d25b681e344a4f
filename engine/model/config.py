"""The shape of a K2 model, under the field names of Hugging Face's DeepseekV3 configuration."""

from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Self

from engine.errors import UserError

FIXED: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "hidden_act": "silu",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "tie_word_embeddings": False,
    "n_group": 1,
    "topk_group": 1,
    "moe_layer_freq": 1,
    "norm_topk_prob": True,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
}
"""What K2 settles once and for all; a configuration that says otherwise is another architecture."""

YARN_FIELDS = ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")


@dataclass(frozen=True)
class K2Config:
    """Sizes of one model. Lengths in tokens, widths in channels; see k2's own values in conf/k2.

    `q_lora_rank` None means one full query projection, as Moonlight has. `rope_scaling` None means plain
    RoPE; otherwise a mapping with `type: yarn | linear` under Hugging Face's names.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    moe_intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    n_routed_experts: int
    num_experts_per_tok: int
    n_shared_experts: int
    first_k_dense_replace: int
    routed_scaling_factor: float
    max_position_embeddings: int
    rope_theta: float = 50000.0
    rope_scaling: dict[str, Any] | None = None
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int) and value < (0 if field.name == "first_k_dense_replace" else 1):
                raise UserError(f"model configuration: {field.name} is {value}; give a positive whole number")
        if self.num_experts_per_tok > self.n_routed_experts:
            raise UserError(
                f"model configuration: num_experts_per_tok ({self.num_experts_per_tok}) exceeds n_routed_experts "
                f"({self.n_routed_experts}); lower it or add experts"
            )
        if self.qk_rope_head_dim % 2:
            raise UserError(
                f"model configuration: qk_rope_head_dim is {self.qk_rope_head_dim}; RoPE needs an even number"
            )
        _check_scaling(self.rope_scaling)

    @property
    def qk_head_dim(self) -> int:
        """Channels of one query or key head: content plus rotary."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    def to_dict(self) -> dict[str, Any]:
        """The content of config.json that Hugging Face's DeepseekV3 reads."""
        own = asdict(self)
        return {**FIXED, "num_key_value_heads": self.num_attention_heads, **own, "torch_dtype": "float32"}

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = "model configuration") -> Self:
        """Read a configuration; fields that this architecture does not know are left aside.

        Raises UserError, naming `source` and the field, where one is missing or means another architecture.
        """
        for name, fixed in FIXED.items():
            if name not in ("architectures", "model_type") and values.get(name, fixed) != fixed:
                raise UserError(
                    f"{source}: {name} is {values[name]!r}, but a K2 model has {fixed!r}; choose another model"
                )
        for field in fields(cls):
            if field.default is MISSING and field.name != "q_lora_rank" and field.name not in values:
                raise UserError(f"{source}: field {field.name} is missing; add it or take a whole configuration")
        picked = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        picked.setdefault("q_lora_rank", None)
        return cls(**picked)


def _check_scaling(scaling: dict[str, Any] | None) -> None:
    if scaling is None:
        return
    kind = scaling.get("type", scaling.get("rope_type"))
    needed = {"yarn": YARN_FIELDS, "linear": ("factor",)}.get(str(kind))
    if needed is None:
        raise UserError(f"model configuration: rope_scaling type {kind!r} is unknown; use yarn or linear")
    for name in needed:
        if name not in scaling:
            raise UserError(f"model configuration: rope_scaling lacks {name}; add it")
