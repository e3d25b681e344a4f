"""The stages file kedro.yml: its content, and the refusal of a wrong one."""

from pathlib import Path

import pytest

from engine.errors import UserError
from pipelines import graph, stages_file
from pipelines.stages_file import load_stages_file, parse_stages_file

GOOD = """
default_profile: laptop
profiles: [laptop]
stages:
  corpus: { group: data, compute: cpu }
"""


def test_our_own() -> None:
    stages_file = load_stages_file()
    assert stages_file.default_profile == "laptop"
    order = list(stages_file.stages)
    for stage in order:
        assert {graph.producer(name) for name in graph.stage_graph(stage).inputs} <= set(order[: order.index(stage)])
    assert set(stages_file.profiles) == {"smoke", "laptop", "h200", "moonlight", "k2"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD.replace("{ group", "group"), "not valid YAML"),
        (GOOD.replace("stages:", "steps:"), "the field stages is missing"),
        (GOOD + "profile: laptop", "the field profile is unknown; did you mean profiles?"),
        (GOOD + "waived_distributions: rich", "the field waived_distributions is 'rich', not a list"),
        (
            GOOD.replace("cpu", "tpu"),
            "the field stages.corpus.compute is 'tpu': input should be 'cpu', 'llm' or 'train'",
        ),
        (GOOD.replace(", compute: cpu", ""), "the field stages.corpus.compute is missing"),
        (
            GOOD.replace("{ group: data, compute: cpu }", "cpu"),
            "the field stages.corpus is 'cpu', not names with values",
        ),
        (
            GOOD.replace("cpu }", "cpu, headlines: [bytes] }"),
            "stages.corpus.headlines is unknown; did you mean headline?",
        ),
        (GOOD.replace("cpu }", "cpu, headline: bytes }"), "the field stages.corpus.headline is 'bytes', not a list"),
        ("[]", r"kedro.yml: it is \[\], not names with values"),
    ],
)
def test_refusals(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_stages_file(text)


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="no profile 'desktop'.*laptop"):
        load_stages_file().profile("desktop")
    with pytest.raises(UserError, match="no stage 'sfd'.*sft"):
        load_stages_file().stage("sfd")


@pytest.mark.parametrize("content", [b"a: caf\xe9", bytes(range(256)), None])
def test_a_file_that_is_no_text_is_one_sentence(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kedro.yml"
    path.mkdir() if content is None else path.write_bytes(content)
    monkeypatch.setattr(stages_file, "CODE", tmp_path)
    with pytest.raises(UserError, match=r"^kedro\.yml (is not UTF-8|cannot be read)"):
        load_stages_file.__wrapped__()
