"""Tables and parameters of the rl stage."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine.artifacts.schema import TableSchema
from engine.optim.schedule import Schedule
from engine.rollout.verifiable import Item, TaskSettings, items
from engine.training.settings import ONE_GRAPH, OptimizerSettings

ROLLOUTS: TableSchema = {
    "iteration": "i64",
    "family": "str",
    "prompt": "str",
    "response": "str",
    "answer": "str",
    "reward": "f64",
    "truncated": "bool",
    "logprob": "f64",  # of the whole response, under the policy that sampled it, at `temperature`
    "temperature": "f64",
}


class Ptx(BaseModel):
    """The auxiliary language-model loss on chosen data, which prevents forgetting [K2 section 3.2.2]."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: float = Field(ge=0, description="weight of the PTX loss, besides the policy objective")
    chat: int = Field(ge=0, description="chats per step")
    trajectory: int = Field(ge=0, description="tool trajectories per step")
    natural: int = Field(ge=0, description="windows of natural text from the shards per step")
    natural_tokens: int = Field(ge=2, description="length of such a window")
    max_tokens: int = Field(ge=16, description="longest chat or trajectory used")

    @property
    def examples(self) -> dict[str, int]:
        """Kind of fine-tuning example → number per step; demonstrations of the task itself are left out on purpose."""
        return {"chat": self.chat, "trajectory": self.trajectory}


class ToolFamily(BaseModel):
    """Tasks of the tool world as a second family of rewards, from the split `rl`, which only this stage uses."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks: int = Field(ge=0, description="tasks per iteration; 0 leaves the family out")
    samples: int = Field(ge=2, description="episodes per task")
    max_new_tokens: int = Field(ge=1, description="longest assistant turn")
    temperature: float = Field(gt=0, description="sampling temperature of the episodes")
    weight: float = Field(gt=0, description="weight of its objective, besides that of the sums")
    tuning_tasks: int = Field(ge=1, description="tasks of the split `validation` that candidates are judged on")
    tuning_samples: int = Field(ge=1, description="episodes of each of them, at temperature 1")
    evaluation_tasks: int = Field(
        ge=2, description="tasks of the split `test` that before and after are reported on; of one no interval is known"
    )
    evaluation_samples: int = Field(ge=1, description="episodes of each of them, at temperature 1")

    @property
    def on(self) -> bool:
        """Whether the family is trained on."""
        return self.tasks > 0


class Parameters(BaseModel):
    """Parameters of the rl stage, conf/<profile>/parameters/rl.yml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(ge=0, description="the key of every random draw of this stage")
    task: TaskSettings = Field(description="the verifiable task; the same as sft's")
    reward: Literal["verifier", "permuted"] = Field(
        description="permuted shuffles the rewards within each prompt's responses: a control that must teach nothing"
    )

    iterations: int = Field(ge=1, description="rounds of sampling and training")
    prompts: int = Field(ge=1, description="prompts per iteration (N)")
    samples: int = Field(ge=2, description="responses per prompt (K)")
    inner_steps: int = Field(ge=1, description="optimizer steps on each iteration's responses")
    minibatches: int = Field(ge=1, description="parts the prompts are dealt into; each inner step takes the next part")
    tau: float = Field(gt=0, description="weight of the log-ratio in the squared objective")
    max_new_tokens: int = Field(ge=1, description="token budget of a response")
    truncation_penalty: float = Field(ge=0, description="penalty for a response cut off by the budget")
    temperature_start: float = Field(gt=0, description="sampling temperature of the first iteration")
    temperature_end: float = Field(gt=0, description="sampling temperature of the last iteration")
    ptx: Ptx
    tools: ToolFamily

    learning_rate: float = Field(gt=0, description="peak rate of Muon, on AdamW's scale (update RMS 0.2)")
    final_rate: float = Field(ge=0, le=1, description="rate at the last step as a share of the peak")
    warmup_steps: int = Field(ge=0, description="steps of linear warm-up")
    optimizer: OptimizerSettings
    reset_optimizer: bool = Field(description="forget the optimizer's state at each iteration, as K1.5 does")
    checkpoint_every: int = Field(ge=1, description="iterations between resume points")
    threads: int = Field(ge=1, description="CPU threads of the training process")
    dtype: str = Field(pattern="^(float32|bfloat16)$", description="compute type of forward and backward")

    select_every: int = Field(ge=1, description="iterations between candidates for the checkpoint that is kept")
    tuning_prompts: int = Field(ge=1, description="prompts of the tuning split that candidates are judged on")
    tuning_samples: int = Field(ge=1, description="responses drawn for each of them, at temperature 1")
    evaluation_prompts: int = Field(
        ge=2, description="held-out prompts that before and after are reported on; a single one has no interval"
    )
    evaluation_samples: int = Field(ge=1, description="responses drawn for each of them, at temperature 1")

    @model_validator(mode="after")
    def _consistent(self) -> "Parameters":
        if self.warmup_steps >= self.steps:
            raise ValueError("warmup_steps must be below iterations times inner_steps")
        if self.optimizer.zero_stage == 2:
            raise ValueError(ONE_GRAPH)
        if any(size % self.minibatches for size in (self.inner_steps, self.prompts, self.tools.tasks)):
            raise ValueError(
                "minibatches must divide inner_steps, prompts and tools.tasks: every prompt is used equally often"
            )
        if self.temperature_end > self.temperature_start:
            raise ValueError("temperature_end must not exceed temperature_start: the temperature decays")
        return self

    def prompt_items(self) -> tuple[list[Item], ...]:
        """Return every prompt of a run: those of training, of the tuning split and of the held-out split."""
        return (
            items(self.task, "rl", self.iterations * self.prompts, self.seed),
            items(self.task, "tuning", self.tuning_prompts, self.seed),
            items(self.task, "evaluation", self.evaluation_prompts, self.seed),
        )

    @property
    def schedule(self) -> Schedule:
        """The warm-up, then a line to `final_rate` of the peak."""
        peak, rest = self.learning_rate, self.steps - self.warmup_steps
        return Schedule.warmed_up(peak, self.warmup_steps, ("linear", rest, peak * self.final_rate))

    @property
    def steps(self) -> int:
        """The number of optimizer steps of the whole run."""
        return self.iterations * self.inner_steps
