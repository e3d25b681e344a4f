"""Parameters that training stages share: those of the optimizer. Light to import, for the stages' schemas."""

from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

TRAJECTORY: Final = "trajectory"
VALUES: Final = "values"
"""Kinds of examples in a step's batch: the tool trajectories, and the same with a loss on the values that the assistant
takes over from the user's words and the tools' results (engine/training/values.py)."""


ONE_GRAPH: Final = (
    "optimizer.zero_stage: 2 sends gradients in the order in which the backward makes them, which need not be the same "
    "on all ranks here, where each has other kinds of rows; set zero_stage: 1"
)
"""The refusal of stages whose batches mix kinds of rows."""


class OptimizerSettings(BaseModel):
    """MuonClip's settings; see engine/optim/muonclip.py."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["muon", "adamw"] = Field(default="muon", description="adamw moves every weight by AdamW")
    backend: Literal["ours", "deepspeed"] = Field(
        default="ours", description="deepspeed divides adamw's state among the ranks by its ZeRO"
    )
    zero_stage: Literal[1, 2] = Field(default=1, description="of DeepSpeed's ZeRO: 2 divides the gradients, too")
    cpu_offload: bool = Field(default=False, description="keep and update the optimizer's state in main memory")
    weight_decay: float = Field(ge=0)
    momentum: float = Field(ge=0, lt=1)
    tau: float = Field(ge=0, description="QK-Clip's threshold; 0 or null switches it off")
    clip_per: Literal["head", "layer"] = Field(default="head", description="what QK-Clip scales where one head exceeds")
    adamw_lr_factor: float = Field(gt=0)
    newton_schulz_dtype: Literal["float32", "bfloat16"]
    coefficients: Literal["jordan", "polar_express"] = Field(default="jordan", description="of Newton–Schulz's steps")
    nesterov: bool = True
    rms_target: float = Field(default=0.2, gt=0, description="RMS of Muon's updates before the learning rate")
    per_head: bool = Field(default=False, description="orthogonalise query and key projections head by head")
    grad_clip: float | None = Field(default=None, gt=0)
    skip_spikes: bool = Field(default=False, description="skip the steps whose loss is a spike; they are always marked")
    nonfinite_steps: int = Field(
        default=1,
        ge=1,
        description="steps in a row without a finite loss and gradient that stop the run; all are skipped",
    )

    @model_validator(mode="after")
    def _agrees_with_its_backend(self) -> Self:
        if self.backend == "deepspeed" and self.kind == "muon":
            raise ValueError(
                "backend: deepspeed is for kind: adamw, since DeepSpeed's Muon is not K2's (docs/deepspeed.md); set "
                "kind: adamw or backend: ours"
            )
        if self.backend == "ours" and (self.zero_stage != 1 or self.cpu_offload):
            raise ValueError("zero_stage and cpu_offload are of backend: deepspeed; set it, or take them out")
        return self

    @field_validator("tau", mode="before")
    @classmethod
    def _off(cls, tau: Any) -> Any:
        return 0.0 if tau is None else tau
