"""Parameters of pre-training."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine.model.parameters import ModelBlock
from engine.optim.schedule import Schedule
from engine.training.settings import OptimizerSettings


class Validation(BaseModel):
    """Held-out measurements: on a few windows every `every` steps, on more at the end."""

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
    model: ModelBlock
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
                f"batch_size {self.batch_size} is not a multiple of micro_batches {self.micro_batches}; "
                "change one of them"
            )
        if 2 not in self.baseline_orders:
            raise ValueError("baseline_orders lacks 2, the bigram that the validation loss is compared with; add it")
        return self
