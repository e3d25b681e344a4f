"""The parameters of the evaluate stage. It has no tables: its outputs are the report directory and the metrics."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from engine.rollout.verifiable import TaskSettings


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BitsPerByte(_Strict):
    """Settings of the losses on held-out natural text, by domain."""

    window: int = Field(ge=8, description="tokens per window; no longer than the base checkpoint's context")
    windows: int = Field(
        ge=1, description="windows per domain, evenly spaced over the test split (fewer if it is short)"
    )
    batch: int = Field(ge=1, description="windows per forward pass")


class Quiz(_Strict):
    """Settings of the multiple choice by likelihood over facts of the training text."""

    fields: dict[str, str] = Field(
        min_length=1, description='field of the knowledge documents ("Field: value" lines) → its name in the report'
    )
    questions: int = Field(ge=1, description="questions per field (fewer if there are not so many facts)")
    choices: int = Field(ge=2, description="answers offered, including the right one: chance is 1/choices")
    max_answer_bytes: int = Field(ge=1, description="facts with longer answers are not asked for")
    batch: int = Field(ge=1, description="answers per forward pass")


class Arithmetic(_Strict):
    """Settings of the verifiable sums of the evaluation split, which no other stage has seen."""

    task: TaskSettings = Field(description="the verifiable task; the same as in sft.yml and rl.yml")
    prompts: int = Field(ge=1, description="questions, each answered once greedily and once sampled")
    temperature: float = Field(gt=0, description="temperature of the sampled answers; 1 is RL's own reward")
    max_new_tokens: int = Field(ge=1, description="longest answer")


class Tools(_Strict):
    """Settings of the episodes of the tool world."""

    split: Literal["train", "validation", "test"] = Field(description="the tasks' split; not one that is trained on")
    episodes: int = Field(ge=1, description="tasks played (fewer if the split has fewer)")
    max_new_tokens: int = Field(ge=1, description="longest assistant turn")
    temperature: float = Field(gt=0, description="temperature of the sampled episodes; 1 is RL's own reward")


class Lengths(_Strict):
    """Settings of the loss by position in windows longer than the base checkpoint was trained at."""

    length: int = Field(ge=16, description="tokens per window; the extended context")
    windows: int = Field(ge=1, description="windows, evenly spaced over the test split (fewer if it is short)")
    buckets: int = Field(
        ge=4, multiple_of=4, description="points of the curve: positions are pooled into this many groups"
    )


class Samples(_Strict):
    """Prompts that every checkpoint continues or answers greedily."""

    texts: tuple[str, ...] = Field(description="beginnings of plain text to continue")
    chats: tuple[str, ...] = Field(description="user turns to answer in the chat format")
    max_new_tokens: int = Field(ge=1, description="longest response")


class Parameters(_Strict):
    """Parameters of the evaluate stage, conf/<profile>/parameters/evaluate.yml."""

    seed: int = Field(ge=0, description="the key of the choice of questions, the samples and the bootstrap")
    threads: int = Field(ge=1, description="CPU threads of the evaluating process")
    bits_per_byte: BitsPerByte
    quiz: Quiz
    arithmetic: Arithmetic
    tools: Tools
    lengths: Lengths
    samples: Samples
