"""The estimate of a stage's time, by its past runs and the change of its parameters since."""

from typing import Any

import pytest

from pipelines import graph
from pipelines.estimate import estimate, steps
from pipelines.stages_file import load_stages_file

PHASES = [{"shape": "warmup", "length": 10, "end": 0.01}, {"shape": "constant", "length": 90}]
LONGER = {"phases": [{"shape": "constant", "length": 600}], "start": 0.01}
PRETRAIN = {"batch_size": 8, "sequence_length": 64, "schedule": {"phases": PHASES}}


def flat(**parameters: Any) -> dict[str, Any]:
    from engine.identity.key import flatten

    return flatten(parameters)


def run(seconds: float, outcome: str = "success", training: Any = None, **parameters: Any) -> dict[str, Any]:
    parts = {"parameters": flat(**parameters)}
    return {"seconds": seconds, "outcome": outcome, "parts": parts, "training": training}


def test_of_what_does_not_train_it_is_the_median_of_good_runs() -> None:
    runs = [run(10), run(30), run(500), run(0, "adopted"), run(0, "recalled")]
    assert estimate("corpus", runs, {}) == 30
    assert estimate("corpus", [run(0, "adopted")], {}) is None


@pytest.mark.parametrize(
    ("stage", "then", "now", "times"),
    [
        ("pretrain", PRETRAIN, {**PRETRAIN, "schedule": LONGER}, 6),
        ("pretrain", PRETRAIN, {**PRETRAIN, "batch_size": 16, "sequence_length": 32}, 1),
        ("extend", PRETRAIN, {**PRETRAIN, "sequence_length": 256}, 4),
        ("sft", {"steps": 8, "batch": {"chat": 4, "demonstration": 4}}, {"steps": 24, "batch": {"chat": 16}}, 6),
        ("rl", {"iterations": 3, "prompts": 8, "samples": 4}, {"iterations": 6, "prompts": 8, "samples": 8}, 4),
        ("sft", {}, {"steps": 24}, 1),
    ],
)
def test_of_a_training_it_grows_with_steps_and_their_size(stage: str, then: Any, now: Any, times: float) -> None:
    assert estimate(stage, [run(10.0, **{stage: then})], {stage: now}) == pytest.approx(10 * times)


def test_a_run_that_was_resumed_counts_for_its_own_steps() -> None:
    half = run(10.0, training={"steps": 100, "resumed_at": 75}, pretrain=PRETRAIN)
    assert estimate("pretrain", [half], {"pretrain": PRETRAIN}) == pytest.approx(40)
    none = run(10.0, training={"steps": 100, "resumed_at": 100}, pretrain=PRETRAIN)
    assert estimate("pretrain", [none], {"pretrain": PRETRAIN}) == 10


def test_every_training_stage_of_the_graph_has_its_number_of_steps() -> None:
    trains = {stage for stage, spec in load_stages_file().stages.items() if spec.compute == "train"} - {"evaluate"}
    assert trains >= {"pretrain", "extend", "sft", "rl"}
    for stage in trains:
        assert steps(stage, flat(**graph.parameters("laptop"))) > 1
