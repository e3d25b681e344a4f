"""What an error sends its reader to is a command that there is, and for the profile that the error is about."""

import re
from pathlib import Path

import pytest

from engine import remedy
from tests.project import ROOT

FLOORS = ("engine", "nodes", "studies", "pipelines", "dags", "benchmarks")
CODE = {
    path: re.sub(r'"""(?:.|\n)*?"""', "", path.read_text()) for floor in FLOORS for path in (ROOT / floor).rglob("*.py")
}
"""The code without its docstrings: what is said to users."""
TARGET = re.compile(r"^([a-z-]+):.*\n(?:\t.*\n)*", re.MULTILINE)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("smoke", "make repro STAGE=sft PROFILE=smoke"),
        (None, "make repro STAGE=sft"),
        (Path("/r/data/smoke/sft/sft_examples/a.parquet"), "make repro STAGE=sft PROFILE=smoke"),
        (Path("/data/r/data/k2/.store/0f/model.safetensors"), "make repro STAGE=sft PROFILE=k2"),
        (Path("data/laptop"), "make repro STAGE=sft PROFILE=laptop"),
        (Path("/home/ann/checkpoint"), "make repro STAGE=sft"),
    ],
)
def test_a_command_is_for_the_profile_that_is_spoken_of(place: Path | str | None, words: str) -> None:
    assert remedy.command("repro", place, STAGE="sft") == words


def test_what_cannot_be_read_is_made_by_its_stage_or_came_from_elsewhere() -> None:
    made = remedy.remake(Path("/r/data/smoke/pretrain/base_checkpoint/config.json"))
    assert made == "run `make repro STAGE=pretrain PROFILE=smoke` to make it again"
    for foreign in ("/home/ann/model/config.json", "/r/data/smoke/.work/sft/0/x.json"):
        assert "another directory" in remedy.remake(Path(foreign))


def test_a_sentence_from_where_nobody_knows_the_profile_is_completed() -> None:
    sentence = f"row 3 is bad: {remedy.make_again('tooluse', None, force=True)}, or `make clean`, or `make plan`."
    whole = remedy.completed(sentence, "smoke")
    assert "`make repro STAGE=tooluse FORCE=1 PROFILE=smoke`" in whole
    assert "`make plan PROFILE=smoke`" in whole
    assert "`make clean`" in whole
    assert remedy.completed(whole, "laptop") == whole


def test_every_make_command_in_the_code_is_a_target_with_its_variables() -> None:
    recipes = {match[1]: match[0] for match in TARGET.finditer((ROOT / "Makefile").read_text())}
    seen = set()
    for path, text in CODE.items():
        for verb, options in re.findall(r"`make ([a-z-]+)((?: [A-Z]+=[^ `]*)*)`", text):
            assert verb in recipes, f"{path}: make {verb}"
            for name in re.findall(r"([A-Z]+)=", options):
                assert f"$({name})" in recipes[verb] or f"{name}=" in recipes[verb], f"{path}: make {verb} {name}="
            seen.add(verb)
    for verb in re.findall(r"""command\(["']([a-z-]+)["'], """, "".join(CODE.values())):
        assert verb in recipes
        seen.add(verb)
    assert {"repro", "mend", "why", "compare"} <= seen


def test_no_command_with_a_stage_is_written_without_its_profile() -> None:
    for path, text in CODE.items():
        for words in re.findall(r"`(make (?:repro|why|run)\b[^`]*STAGE=\{[^`]*)`", text):
            assert "PROFILE=" in words, f"{path}: {words}: use engine.remedy.command"
