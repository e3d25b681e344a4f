"""The README's commands are read as people read them, and those that no test runs are run, or exist, elsewhere."""

import re

import pytest

from tests.docs.readme import IN_CI, README, ROOT, SUITES, TOO_LONG, commands, is_run

TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
SHOWN = commands(README.read_text(encoding="utf-8"))


def target(command: str) -> str:
    """The Makefile's target of a `make` command, variables before it passed over."""
    return next(word for word in command.split("make ", 1)[1].split() if "=" not in word)


def test_the_readme_shows_commands_and_most_of_them_are_run() -> None:
    assert {"make run", "make plan", "dvc repro", "make ui", "make compare"} <= set(SHOWN)
    assert sum(map(is_run, SHOWN)) > 20


@pytest.mark.parametrize("command", [one for one in SHOWN if "make " in one])
def test_every_make_command_is_a_target(command: str) -> None:
    assert target(command) in TARGETS


@pytest.mark.parametrize("command", IN_CI)
def test_what_is_left_to_ci_is_run_there(command: str) -> None:
    words = (ROOT / ".ci" / "run").read_text().split()
    assert command in SHOWN, "the README shows it no more: take it out of IN_CI"
    assert target(SUITES.get(command, command)) in words


@pytest.mark.parametrize("command", TOO_LONG)
def test_what_takes_too_long_exists(command: str) -> None:
    assert command in SHOWN, "the README shows it no more: take it out of TOO_LONG"
    if "make " in command:
        assert target(command) in TARGETS
    else:
        assert (ROOT / "benchmarks" / command.removeprefix("python -m benchmarks ") / "__init__.py").is_file()


def test_commands_are_found_in_blocks_and_between_backticks() -> None:
    blocks = "```sh\n# first\nmake b   # why\n\n```\n```console\n$ make c\nmake d\n```\n"
    page = f"Type `make a` or `x.py`.\n{blocks}`dvc e`, `make a`\n"
    assert commands(page) == ["make a", "make b", "make c", "dvc e"]
