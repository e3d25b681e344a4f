"""Parameters of pre-training."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine.training.settings import OptimizerSettings, Schedule


class ModelShape(BaseModel):
    """The architecture's sizes, under Hugging Face's DeepseekV3 names; see engine/model/config.py."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    vocab_size: int | None = Field(default=None, description="null: the tokenizer's")
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
    routed_scaling_factor: float | None = Field(description="null: recomputed for (experts, k), k2-facts 1.3")
    rope_theta: float
    rms_norm_eps: float
    initializer_range: float


class Validation(BaseModel):
    """Held-out measurements: every so many steps on a few windows, at the end on more."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    every: int = Field(ge=1)
    windows: int = Field(ge=1)
    final_windows: int = Field(ge=1)


class Parameters(BaseModel):
    """All numbers of the stage; one step reads batch_size × sequence_length tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int
    threads: int = Field(ge=1)
    dtype: Literal["float32", "bfloat16"]
    model: ModelShape
    sequence_length: int = Field(ge=2)
    batch_size: int = Field(ge=1)
    micro_batches: int = Field(ge=1)
    schedule: Schedule
    optimizer: OptimizerSettings
    router_bias_rate: float = Field(ge=0)
    checkpoint_every: int = Field(ge=1)
    validation: Validation
    baseline_orders: tuple[int, ...]

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.batch_size % self.micro_batches:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of micro_batches {self.micro_batches}; change one of them"
            )
        if 2 not in self.baseline_orders:
            raise ValueError("baseline_orders lacks 2, the bigram that the validation loss is held against; add it")
        return self
