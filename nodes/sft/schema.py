"""Tables and parameters of the sft stage."""

from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine.artifacts.schema import TableSchema
from engine.optim.schedule import Schedule
from engine.rollout.verifiable import TaskSettings
from engine.training.settings import ONE_GRAPH, TRAJECTORY, VALUES, OptimizerSettings

SFT_EXAMPLES: TableSchema = {
    "id": "str",
    "kind": "str",  # chat | trajectory | demonstration
    "messages": "str",  # JSON list of OpenAI messages
    "tools": "str",  # JSON list of OpenAI tools, "[]" for none
    "split": "str",  # train | validation
}

NATURAL = "natural"
"""The group of natural text in a step's batch, besides the kinds of examples."""
KINDS = ("chat", "trajectory", "values", "demonstration")
"""Kinds of examples in a step's batch; `values` are the trajectories with another loss (engine/training/values.py)."""


class Examples(BaseModel):
    """Most rows of each kind in the table of examples."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    chat: int = Field(ge=0)
    trajectory: int = Field(ge=0)
    demonstration: int = Field(ge=0)

    def of(self, kind: str) -> int:
        """Return the number of rows that examples of `kind` are made from."""
        return int(getattr(self, TRAJECTORY if kind == VALUES else kind))


class Mixture(BaseModel):
    """One number per kind of example."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    chat: int = Field(ge=0)
    trajectory: int = Field(ge=0)
    values: int = Field(ge=0)
    demonstration: int = Field(ge=0)

    def of(self, kind: str) -> int:
        """Return the number for `kind`."""
        return int(getattr(self, kind))


class Weights(BaseModel):
    """Weight of each kind's mean token loss in the loss of a step."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    chat: float = Field(ge=0)
    trajectory: float = Field(ge=0)
    values: float = Field(ge=0)
    demonstration: float = Field(ge=0)

    def of(self, kind: str) -> float:
        """Return the weight of `kind`."""
        return float(getattr(self, kind))


class Natural(BaseModel):
    """Windows of pre-training's natural text in each step, to prevent forgetting."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    windows: int = Field(ge=0, description="windows per step; 0 for none")
    tokens: int = Field(ge=2, description="length of a window")
    weight: float = Field(ge=0, description="weight of their mean token loss, besides those in `weights`")


class Parameters(BaseModel):
    """Parameters of the sft stage, conf/<profile>/parameters/sft.yml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(ge=0, description="the key of every random draw of this stage")
    task: TaskSettings = Field(description="the verifiable task demonstrated; rl and evaluate ask the same")

    examples: Examples = Field(description="most examples of each kind in the table")
    validation_share: float = Field(gt=0, lt=0.5, description="part of the examples kept for validation")
    max_tokens: int = Field(ge=16, description="longest example trained on; longer ones are left out and counted")

    steps: int = Field(ge=1, description="optimizer steps")
    batch: Mixture = Field(description="examples of each kind in a step")
    micro_batches: int = Field(ge=1, description="parts into which a step's examples are split to save memory")
    weights: Weights = Field(description="weight of each kind's mean token loss")
    natural: Natural
    learning_rate: float = Field(gt=0, description="peak rate of Muon, on AdamW's scale (update RMS 0.2)")
    final_rate: float = Field(ge=0, le=1, description="rate at the last step as a share of the peak")
    warmup_steps: int = Field(ge=0, description="steps of linear warm-up")
    optimizer: OptimizerSettings
    checkpoint_every: int = Field(ge=1, description="steps between resume points")
    threads: int = Field(ge=1, description="CPU threads of the training process")
    dtype: str = Field(pattern="^(float32|bfloat16)$", description="compute type of forward and backward")

    tuning_prompts: int = Field(ge=1, description="prompts of the tuning split that the pass rate is taken on")
    tuning_samples: int = Field(ge=1, description="responses drawn for each of them, at temperature 1")
    max_new_tokens: int = Field(ge=1, description="longest response of a verifiable task")

    @property
    def schedule(self) -> Schedule:
        """The warm-up, then a cosine to `final_rate` of the peak."""
        peak, rest = self.learning_rate, self.steps - self.warmup_steps
        return Schedule.warmed_up(peak, self.warmup_steps, ("cosine", rest, peak * self.final_rate))

    def weight_of(self, kind: str) -> float:
        """Return the weight of a group's mean token loss in the loss of a step."""
        return self.natural.weight if kind == NATURAL else self.weights.of(kind)

    @model_validator(mode="after")
    def _consistent(self) -> "Parameters":
        for kind in KINDS:
            if self.batch.of(kind) and not self.examples.of(kind):
                raise ValueError(
                    f"batch.{kind} asks for examples, but examples.{kind} is 0: raise it or drop the other"
                )
        if not any(self.batch.of(kind) for kind in KINDS):
            raise ValueError("batch has no example of any kind: give at least one")
        if self.warmup_steps >= self.steps:
            raise ValueError("warmup_steps must be below steps")
        if self.optimizer.zero_stage == 2:
            raise ValueError(ONE_GRAPH)
        return self
