"""The grouping of stage runs into pipeline versions."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipelines.track.versions import versions


def run(
    stage: str, at: int, inputs: dict[str, str], outputs: dict[str, str], outcome: str = "success"
) -> dict[str, Any]:
    return {
        "stage": stage, "key": f"{stage}{at}", "finished": f"2026-01-01T00:00:{at:02d}.000000+00:00",
        "parts": {"inputs": inputs}, "outputs": outputs if outcome == "success" else {}, "outcome": outcome,
    }  # fmt: skip


FIRST = [
    run("corpus", 1, {}, {"documents": "d1"}),
    run("tokenization", 2, {"documents": "d1"}, {"shards": "s1"}),
    run("sft", 3, {"shards": "s1"}, {"sft_checkpoint": "c1"}),
]


def test_runs_that_read_each_other_are_one_version():
    (version,) = versions(FIRST)
    assert version.runs == {"corpus": FIRST[0], "tokenization": FIRST[1], "sft": FIRST[2]}
    assert version.members == FIRST


def test_changed_stage_opens_a_version_that_shares_what_came_before():
    second = run("sft", 4, {"shards": "s1"}, {"sft_checkpoint": "c2"})
    one, two = versions([*FIRST, second])
    assert one.members == FIRST
    assert two.members == [second]
    assert two.runs == {"corpus": FIRST[0], "tokenization": FIRST[1], "sft": second}


def test_changed_first_stage_draws_its_followers_into_the_new_version():
    more = [
        run("corpus", 4, {}, {"documents": "d2"}),
        run("tokenization", 5, {"documents": "d2"}, {"shards": "s2"}),
        run("sft", 6, {"shards": "s2"}, {"sft_checkpoint": "c2"}),
    ]
    one, two = versions([*FIRST, *more])
    assert (one.members, two.members) == (FIRST, more)


def test_same_result_again_stays_in_its_version():
    again = run("corpus", 4, {}, {"documents": "d1"})
    (version,) = versions([*FIRST, again])
    assert version.members[-1] is again


def test_failed_run_belongs_to_the_version_whose_data_it_read():
    failed = run("sft", 4, {"shards": "s1"}, {}, "failed")
    (version,) = versions([*FIRST, failed])
    assert version.members[-1] is failed
    assert version.runs["sft"] is FIRST[2]


@st.composite
def histories(draw):
    """Draw a chain of three stages, in which each run makes or repeats one of three results from the present ones."""
    records: list[dict[str, Any]] = []
    latest = {"a": "a0", "b": "b0"}
    for at in range(draw(st.integers(1, 12))):
        stage = draw(st.sampled_from(["corpus", "tokenization", "sft"]))
        result = str(draw(st.integers(0, 2)))
        inputs = {"corpus": {}, "tokenization": {"a": latest["a"]}, "sft": {"b": latest["b"]}}[stage]
        name = {"corpus": "a", "tokenization": "b", "sft": "c"}[stage]
        outcome = draw(st.sampled_from(["success", "success", "failed"]))
        records.append(run(stage, at, inputs, {name: f"{name}{result}"}, outcome))
        if outcome == "success":
            latest[name] = f"{name}{result}"
    return records


@given(histories(), st.integers(0, 12))
def test_every_record_has_one_home_that_later_records_do_not_change(records, cut):
    all_versions = versions(records)
    assert sorted(r["key"] for v in all_versions for r in v.members) == sorted(r["key"] for r in records)
    homes = {record["key"]: version.name for version in all_versions for record in version.members}
    for version in versions(records[:cut]):
        assert all(homes[record["key"]] == version.name for record in version.members)


@given(histories())
def test_a_version_never_holds_runs_that_read_something_else(records):
    for version in versions(records):
        outputs = {name: digest for record in version.runs.values() for name, digest in record["outputs"].items()}
        for record in version.runs.values():
            assert all(outputs.get(name, digest) == digest for name, digest in record["parts"]["inputs"].items())
