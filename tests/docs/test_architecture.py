"""docs/architecture.md: each answer to "where do I change …?" leads to one file that holds what it names."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
QUESTIONS = {
    "a learning-rate schedule",
    "a reward",
    "a tool domain",
    "a corpus source kind",
    "an evaluation suite",
    "a plot of the report",
    "the sbatch header",
    "a gate's limit",
    "a key's parts",
    "a pipeline's schedule",
    "a Dagster check",
}
WORDS = {"key", "record", "workspace", "payload", "recall", "gate", "snapshot", "compute class"}
ANSWER = re.compile(
    r"^\| (?P<question>[^|]+) \| \[(?P<file>[^\]]+)\]\(\.\./(?P<link>[^)]+)\) \| `(?P<name>[^`]+)` \|", re.MULTILINE
)
ANSWERS = {match["question"]: match for match in ANSWER.finditer(TEXT)}


def defined_names(path: Path) -> set[str]:
    """What a file defines: functions, classes, constants and fields of Python, keys of YAML at any depth."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".yml":
        return set(keys(yaml.safe_load(text)))
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def keys(value: Any) -> list[str]:
    """All keys of a nested mapping."""
    if isinstance(value, dict):
        return [str(key) for key in value] + [key for one in value.values() for key in keys(one)]
    return [key for one in value for key in keys(one)] if isinstance(value, list) else []


def test_all_ten_questions_are_answered_once() -> None:
    assert set(ANSWERS) == QUESTIONS
    assert len(ANSWER.findall(TEXT)) == len(QUESTIONS)


@pytest.mark.parametrize("question", sorted(QUESTIONS))
def test_an_answer_leads_to_a_file_that_defines_what_it_names(question: str) -> None:
    match = ANSWERS[question]
    assert match["file"] == match["link"]
    assert match["name"] in defined_names(ROOT / match["file"])


def test_a_file_that_lost_the_definition_is_noticed(tmp_path: Path) -> None:
    source = ROOT / ANSWERS["a key's parts"]["file"]
    copy = tmp_path / "key.py"
    copy.write_text(source.read_text().replace("def stage_key", "def other_key"))
    assert ANSWERS["a key's parts"]["name"] not in defined_names(copy)


@pytest.mark.parametrize("word", sorted(WORDS))
def test_the_glossary_explains(word: str) -> None:
    assert re.search(rf"^\| \*\*{word}\*\* \| .{{30,}}", TEXT, re.MULTILINE)
