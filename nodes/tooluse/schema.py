"""Parameters and tables of the tooluse stage."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine.artifacts.schema import TableSchema
from engine.toolworld.specs import Declaration


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Faults(_Frozen):
    """How often the tool simulator fails by chance (K2 paper, 3.1.1: success, partial failure, edge case)."""

    busy: float = Field(ge=0, le=1, description="share of valid calls answered 'busy'")
    partial: float = Field(ge=0, le=1, description="share of valid calls that are done in part")
    most: int = Field(ge=0, description="most faults in one episode")

    @model_validator(mode="after")
    def _add_up(self) -> "Faults":
        if self.busy + self.partial > 1:
            raise ValueError("busy and partial are shares of the same calls; make their sum at most 1")
        return self


class Split(_Frozen):
    """Shares of tasks by hash of the instruction; they must add up to 1. `rl` holds tasks without trajectories."""

    train: float = Field(gt=0, le=1)
    rl: float = Field(ge=0, le=1)
    validation: float = Field(ge=0, le=1)
    test: float = Field(ge=0, le=1)

    @model_validator(mode="after")
    def _add_up(self) -> "Split":
        if abs(self.train + self.rl + self.validation + self.test - 1) > 1e-9:
            raise ValueError("train, rl, validation and test must add up to 1")
        return self


class Difficulty(_Frozen):
    """Relative weights of simple (one call), medium (two steps, or a refusal) and complex (three or more) tasks."""

    simple: float = Field(ge=0)
    medium: float = Field(ge=0)
    complex: float = Field(ge=0)

    @model_validator(mode="after")
    def _some(self) -> "Difficulty":
        if self.simple + self.medium + self.complex <= 0:
            raise ValueError("at least one of simple, medium and complex must be above 0")
        return self


class Parameters(_Frozen):
    """The parameters in `conf/*/parameters/tooluse.yml`."""

    seed: int = Field(description="the key of every random draw of the stage")
    generator: Literal["template", "local", "openai"] = Field(description="who plays user and agent")
    domains: list[str] = Field(description="domains of engine/toolworld/domains.yml; empty means all")
    agents: int = Field(ge=1, description="system prompt x tool subset")
    tools_per_agent: tuple[int, int] = Field(description="fewest and most tools of one agent")
    declaration: Declaration = Field(description="how tools are declared: full, or compact for a small context")
    tasks: int = Field(ge=1, description="rubric tasks over all agents")
    difficulty: Difficulty
    impossible: float = Field(ge=0, le=1, description="share of requests that the state does not allow")
    episodes_per_task: int = Field(ge=1, description="trajectories played for each task, passing or not")
    personas: list[str] = Field(min_length=1, description="personas of engine/toolworld/personas.yml")
    parallel: float = Field(ge=0, le=1, description="share of episodes whose agent reads in parallel calls")
    faults: Faults
    defects: dict[str, float] = Field(description="share of episodes in which the template agent plants each defect")
    pass_score: float = Field(ge=0, le=1, description="lowest rubric score of a passing trajectory")
    max_turns: int = Field(ge=2, description="most assistant turns of an episode")
    split: Split

    @model_validator(mode="after")
    def _sensible(self) -> "Parameters":
        low, high = self.tools_per_agent
        if not 1 <= low <= high:
            raise ValueError("tools_per_agent is [fewest, most] with 1 <= fewest <= most")
        if min(self.defects.values(), default=0) < 0 or sum(self.defects.values()) > 1:
            raise ValueError("defects are shares of the episodes; each at least 0, together at most 1")
        return self


TOOLS: TableSchema = {
    "name": "str",
    "domain": "str",
    "origin": "str",
    "description": "str",
    "parameters": "str",
    "returns": "str",
    "stateful": "bool",
}
AGENTS: TableSchema = {"id": "str", "domain": "str", "system_prompt": "str", "tools": "list[str]"}
TASKS: TableSchema = {
    "id": "str",
    "agent_id": "str",
    "domain": "str",
    "instruction": "str",
    "rubric": "str",
    "difficulty": "str",
    "split": "str",
}
TRAJECTORIES: TableSchema = {
    "id": "str",
    "task_id": "str",
    "agent_id": "str",
    "domain": "str",
    "split": "str",
    "messages": "str",
    "tools": "str",
    "score": "f64",
    "verdict": "str",
    "turns": "i64",
    "generator": "str",
}
REJECTED_TRAJECTORIES: TableSchema = TRAJECTORIES
