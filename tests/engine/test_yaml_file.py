"""What is wrong with a YAML file is one sentence: the file, the line, the key."""

from pathlib import Path

import pytest

from engine.errors import UserError
from engine.yaml_file import parse_yaml, read_yaml


def test_good_text_is_what_pyyaml_reads() -> None:
    assert parse_yaml("a: {x: 1, y: [2, 3]}\nb: &b {x: 1}\nc: {<<: *b, x: 2}\n", "f.yml") == {
        "a": {"x": 1, "y": [2, 3]},
        "b": {"x": 1},
        "c": {"x": 2},
    }
    assert parse_yaml("", "f.yml") is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: 1\nb: 2\na: 3\n", r"f.yml, line 3: the key a occurs twice in one mapping \(first in line 1\): keep one."),
        ("s:\n  deep: {k: 1, k: 2}\n", "f.yml, line 2: the key k occurs twice"),
        ("a: [1\n", r"f.yml, line 2, is not valid YAML \(.*expected ',' or ']'"),
        ("a: 1\n\tb: 2\n", "f.yml, line 2, is not valid YAML"),
        ("a: !!python/object:os.system 1\n", "f.yml, line 1, is not valid YAML .*could not determine a constructor"),
        ("a: 1\n<<<<<<< HEAD\nb: 1\n=======\nb: 2\n>>>>>>> other\n", "f.yml, line 2, holds the marks of an unfinished"),
        ("a: 1\n--- \nb: 2\n", "f.yml, line 2, is not valid YAML .*another document"),
        ("[" * 3000, "f.yml.* is not valid YAML"),
        ("a: \x00", "f.yml is not valid YAML"),
        ("a: 2026-13-45\n", "f.yml is not valid YAML .*month"),
    ],
)
def test_a_fault_names_file_line_and_key(text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        parse_yaml(text, "f.yml")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone.yml cannot be read \(No such file or directory\)"):
        read_yaml(tmp_path / "gone.yml")
    with pytest.raises(UserError, match=r"my settings cannot be read \(Is a directory\)"):
        read_yaml(tmp_path, "my settings")
    (tmp_path / "latin.yml").write_bytes(b"a: caf\xe9")
    with pytest.raises(UserError, match="latin.yml is not UTF-8 at byte 6"):
        read_yaml(tmp_path / "latin.yml")
