"""The sizes of a K2 model, with the field names of Hugging Face's DeepseekV3 configuration."""

import math
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
    "rope_interleave": True,
    "num_nextn_predict_layers": 0,
}
"""Settings that are the same in every K2 model; a configuration with other values is another architecture."""

MODEL_TYPES = ("deepseek_v3", "kimi_k2")
"""Two names for the same code: K2's release has its own."""

IGNORED = frozenset(
    {
        # storage and software: how the weights are kept or loaded, not what they compute
        "torch_dtype", "dtype", "quantization_config", "transformers_version", "auto_map", "use_cache",
        "pretraining_tp", "ep_size", "_name_or_path",
        # losses of training that leave the forward alone
        "aux_loss_alpha", "seq_aux", "router_aux_loss_coef", "output_router_logits",
        # the tokenizer's ids
        "bos_token_id", "eos_token_id", "pad_token_id",
        # ours: where a checkpoint comes from
        "k2_pipeline",
    }
)  # fmt: skip
"""Fields of a foreign config.json that change no logit. Any other unknown field could, and is refused."""

DERIVED = {
    "num_key_value_heads": ("num_attention_heads",),
    "qk_head_dim": ("qk_nope_head_dim", "qk_rope_head_dim"),
    "head_dim": ("qk_rope_head_dim",),
}
"""Fields of a foreign config.json that are sums of others: latent attention shares no heads, and transformers calls the
rotary width head_dim."""

YARN_FIELDS = ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")


@dataclass(frozen=True)
class K2Config:
    """The sizes of one model. Lengths are in tokens, widths in channels; see K2's own values in conf/k2.

    `q_lora_rank` None means one full query projection, as in Moonlight. `rope_scaling` None means plain RoPE; otherwise
    it is a mapping with `type: yarn | linear` and Hugging Face's names.
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
            if advice := number_wanted(field.name, field.type, value):
                raise UserError(f"model configuration: {field.name} is {value!r}; give {advice}")
        if self.first_k_dense_replace > self.num_hidden_layers:
            raise UserError(
                f"model configuration: first_k_dense_replace ({self.first_k_dense_replace}) exceeds num_hidden_layers "
                f"({self.num_hidden_layers}); lower it"
            )
        if self.num_experts_per_tok > self.n_routed_experts:
            raise UserError(
                f"model configuration: num_experts_per_tok ({self.num_experts_per_tok}) exceeds n_routed_experts "
                f"({self.n_routed_experts}); lower it or add experts"
            )
        if self.qk_rope_head_dim % 2:
            raise UserError(
                f"model configuration: qk_rope_head_dim is {self.qk_rope_head_dim}; RoPE needs an even number"
            )
        if self.rope_theta <= 1:
            raise UserError(
                f"model configuration: rope_theta is {self.rope_theta}; pairs turn at different speeds only above 1, "
                "so raise it"
            )
        _check_scaling(self.rope_scaling)

    @property
    def qk_head_dim(self) -> int:
        """The channels of one query or key head: content plus rotary."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    def to_dict(self) -> dict[str, Any]:
        """Return the content of a config.json that Hugging Face's DeepseekV3 reads."""
        own = asdict(self)
        return {**FIXED, "num_key_value_heads": self.num_attention_heads, **own, "torch_dtype": "float32"}

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = "model configuration") -> Self:
        """Read a config.json, ours or another's, allowing `IGNORED` fields and unknown ones that are off.

        Raises UserError, naming `source` and the field, if a field is missing, unknown, contradicts another or means
        another architecture.
        """
        _check_architecture(values, source)
        values = _with_rope(values, source)
        known = {field.name for field in fields(cls)}
        _refuse_unknown(values, {*known, *FIXED, *DERIVED, *IGNORED}, source)
        for name in (
            "rope_theta",
            "rms_norm_eps",
        ):  # they have defaults here, which the file's author may not have meant
            _require(name, values, source)
        config = cls.from_fields({name: values[name] for name in known if name in values}, source)
        for name, parts in DERIVED.items():
            if values.get(name) not in (None, sum(getattr(config, part) for part in parts)):
                others = " and ".join(f"{part} {getattr(config, part)}" for part in parts)
                raise UserError(f"{source}: {name} is {values[name]}, but {others}; make them agree")
        _check_context(config, source)
        return config

    @classmethod
    def from_fields(cls, values: dict[str, Any], source: str) -> Self:
        """Build from a mapping with exactly this class's fields; UserError naming `source` and field."""
        _refuse_unknown(values, {field.name for field in fields(cls)}, source, even_off=True)
        for field in fields(cls):
            if field.default is MISSING:
                _require(field.name, values, source)
        try:
            return cls(**values)
        except UserError as error:
            raise UserError(str(error).replace("model configuration", source, 1)) from None


def require_context(config: K2Config, tokens: int, field: str) -> None:
    """Refuse `tokens` positions, the value of parameter `field`, if the checkpoint was not made for that many.

    `max_position_embeddings` is the trained length, or what YaRN stretches it to. Beyond it, rotary angles are new to
    the model and it degrades without an error, so this is checked before any training starts.
    """
    limit = config.max_position_embeddings
    if tokens > limit:
        how = (
            "without YaRN" if config.rope_scaling is None else f"with rope_scaling by {config.rope_scaling['factor']:g}"
        )
        raise UserError(
            f"parameters: {field} is {tokens}, but the checkpoint reads {limit} positions {how}; lower it, or extend "
            "the checkpoint further (extend.sequence_length, extend.yarn.factor)"
        )


def _require(name: str, values: dict[str, Any], source: str) -> None:
    if name not in values:
        raise UserError(f"{source}: field {name} is missing; add it or take a whole configuration")


def number_wanted(name: str, kind: Any, value: Any) -> str:
    """Return the kind of number that a field needs if `value` is of the wrong kind, not finite or too small; else "".

    `kind` is the field's annotated type.
    """
    kind = getattr(kind, "__name__", str(kind))  # `int | None` has no name and is converted to text
    if (value is None and "None" in kind) or name == "rope_scaling":
        return ""
    whole = kind.startswith("int")
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    least = 0 if name == "first_k_dense_replace" else 1
    if not number or not math.isfinite(value) or (value < least if whole else value <= 0):
        return f"a positive {'whole number' if whole else 'number'}"
    return ""


def _check_architecture(values: dict[str, Any], source: str) -> None:
    kind = values.get("model_type", FIXED["model_type"])
    if kind not in MODEL_TYPES:
        raise UserError(f"{source}: model_type is {kind!r}, but a K2 model is one of {', '.join(MODEL_TYPES)}")
    for name, fixed in FIXED.items():
        if name != "model_type" and values.get(name, fixed) != fixed:
            raise UserError(f"{source}: {name} is {values[name]!r}, but a K2 model has {fixed!r}; choose another model")


def _refuse_unknown(values: dict[str, Any], known: set[str], source: str, even_off: bool = False) -> None:
    for name, value in values.items():
        if name not in known and (even_off or not (value is None or value is False)):
            raise UserError(f"{source}: field {name} is unknown to a K2 model; correct its name or take it out")


def _with_rope(values: dict[str, Any], source: str) -> dict[str, Any]:
    """Return the values with transformers 5's `rope_parameters` converted to rope_theta and rope_scaling."""
    rest = {name: value for name, value in values.items() if name != "rope_parameters"}
    if isinstance(rest.get("rope_scaling"), dict):
        rest["rope_scaling"] = _typed(rest["rope_scaling"])
    given = values.get("rope_parameters") or {}
    if not given:
        return rest
    if not isinstance(given, dict):
        raise UserError(f"{source}: rope_parameters is {given!r}; give a mapping")
    scaling = _typed({name: value for name, value in given.items() if name != "rope_theta"})
    theta = given.get("rope_theta", rest.get("rope_theta"))
    if theta is None:
        raise UserError(f"{source}: rope_parameters lacks rope_theta; add it")
    converted = {"rope_theta": theta, "rope_scaling": None if scaling["type"] in (None, "default") else scaling}
    for name, value in converted.items():
        if rest.get(name) not in (None, value):
            raise UserError(f"{source}: rope_parameters and {name} contradict each other; take one of them out")
    return {**rest, **converted}


def _typed(scaling: dict[str, Any]) -> dict[str, Any]:
    """Return the mapping with its kind under `type`; a contradicting `rope_type` stays, so that it is refused."""
    kind = scaling.get("type", scaling.get("rope_type"))
    return {"type": kind} | {name: value for name, value in scaling.items() if name != "rope_type" or value != kind}


def _check_context(config: K2Config, source: str) -> None:
    """Refuse a file that promises more positions than YaRN reaches.

    This is not checked for every configuration: to measure the effect of YaRN, models are read beyond that on purpose.
    """
    scaling = config.rope_scaling
    if scaling is None or scaling["type"] != "yarn":
        return
    factor, original = scaling["factor"], scaling["original_max_position_embeddings"]
    if config.max_position_embeddings > round(factor * original):
        raise UserError(
            f"{source}: max_position_embeddings is {config.max_position_embeddings}, but rope_scaling stretches "
            f"{original} positions by {factor:g}; lower it or raise rope_scaling.factor"
        )


def _check_scaling(scaling: dict[str, Any] | None) -> None:
    if scaling is None:
        return
    if not isinstance(scaling, dict):
        raise UserError(f"model configuration: rope_scaling is {scaling!r}; give null or a mapping with a type")
    kind = scaling.get("type", scaling.get("rope_type"))
    if scaling.get("rope_type", kind) != kind:
        kinds = f"type {kind!r} and rope_type {scaling['rope_type']!r}"
        raise UserError(f"model configuration: rope_scaling has {kinds}; take one of them out")
    needed = {"yarn": YARN_FIELDS, "linear": ("factor",)}.get(str(kind))
    if needed is None:
        raise UserError(f"model configuration: rope_scaling type {kind!r} is unknown; use yarn or linear")
    for name in needed:
        if name not in scaling:
            raise UserError(f"model configuration: rope_scaling lacks {name}; add it")
        number = scaling[name]
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number) or number <= 0:
            raise UserError(f"model configuration: rope_scaling.{name} is {number!r}; give a positive number")
    original = scaling.get("original_max_position_embeddings", 1)
    if original != int(original):
        raise UserError(
            f"model configuration: rope_scaling.original_max_position_embeddings is {original!r}; give a whole number"
        )
    if scaling["factor"] < 1:
        raise UserError(
            f"model configuration: rope_scaling.factor is {scaling['factor']}; it stretches, so give 1 or more"
        )
    for name in scaling:
        if name not in ("type", "rope_type", *needed):
            raise UserError(f"model configuration: rope_scaling.{name} is unknown to type {kind}; take it out")
