"""Parameters of context extension."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine.optim.schedule import Schedule
from engine.training.settings import OptimizerSettings


class Yarn(BaseModel):
    """YaRN with Hugging Face's names; `factor` is that of the last step, from the annealed to the extended length."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    factor: float = Field(gt=1)
    beta_fast: float = Field(gt=0)
    beta_slow: float = Field(gt=0)
    mscale: float = Field(gt=0)
    mscale_all_dim: float = Field(gt=0)


class Curves(BaseModel):
    """Settings of the loss by position at the extended length."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    windows: int = Field(ge=1)
    buckets: int = Field(ge=2)


class Passkey(BaseModel):
    """Settings of the passkey probe: a number hidden in natural text, asked for at its end."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    digits: int = Field(ge=1, le=9)
    depths: int = Field(ge=1)
    trials: int = Field(ge=1)


class Parameters(BaseModel):
    """All parameters of the extend stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int
    threads: int = Field(ge=1)
    dtype: Literal["float32", "bfloat16"]
    sequence_length: int = Field(ge=2)
    batch_size: int = Field(ge=1)
    micro_batches: int = Field(ge=1)
    schedule: Schedule
    optimizer: OptimizerSettings
    checkpoint_every: int = Field(ge=1)
    yarn: Yarn
    curves: Curves
    passkey: Passkey

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.batch_size % self.micro_batches:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batches {self.micro_batches}; "
                "change one of them"
            )
        if self.extended_length % self.curves.buckets:
            raise ValueError(
                f"the extended length {self.extended_length} does not divide into curves.buckets "
                f"{self.curves.buckets}; choose a divisor"
            )
        return self

    @property
    def extended_length(self) -> int:
        """The context length of the extended checkpoint, in tokens."""
        return int(self.sequence_length * self.yarn.factor)
