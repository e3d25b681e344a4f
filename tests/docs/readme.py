"""The commands that the README shows, and those of them that no test of the README runs, each with its reason."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
BEGINNINGS = ("make ", "dvc ", "kedro ", "python -m ", "source ", "PIP_FIND_LINKS=", "git ")
"""How text between backticks begins that is a command."""

IN_CI = {
    "make test": "it runs the fast tests, of which this would be one",
    "make smoke": "CI runs it by itself",
    "make test-kill": "a suite of its own",
    "make cluster": "it needs root and Slurm's packages: the suite `test-cluster` starts the same cluster",
}
"""Commands that `.ci/run` runs beside this suite, or a suite of it in their place: command → reason."""
SUITES = {"make cluster": "make test-cluster"}
"""The suite that stands for a command of `IN_CI`, where it is not the command itself."""
TOO_LONG = {
    "PIP_FIND_LINKS=/that/folder make run": "it installs the environment anew; pip itself reads the variable",
    "python -m benchmarks muonclip": "it measures for minutes; `python -m benchmarks --list` names it",
}
"""Commands that take too long for CI: command → reason. They are checked to exist."""


def commands(text: str) -> list[str]:
    """Return the commands of a page in their order, each once: lines of `sh` blocks, `$` lines of `console` blocks,
    and text between backticks that begins as a command does."""
    shown: list[str] = []
    end = 0
    for fence in FENCE.finditer(text):
        shown += _inline(text[end : fence.start()])
        shown += _lines(fence[1], fence[2])
        end = fence.end()
    return list(dict.fromkeys(shown + _inline(text[end:])))


def _inline(prose: str) -> list[str]:
    return [span.strip() for span in INLINE.findall(prose) if span.startswith(BEGINNINGS)]


def _lines(language: str, block: str) -> list[str]:
    lines = [line.partition("  #")[0].rstrip() for line in block.splitlines()]
    if language == "console":
        return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [line for line in lines if line and not line.startswith("#")] if language == "sh" else []


def is_run(command: str) -> bool:
    """Whether tests/graph/test_readme.py runs the command."""
    return command not in IN_CI and command not in TOO_LONG
