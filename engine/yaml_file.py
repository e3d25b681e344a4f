"""Read YAML that people write; an error is one sentence with the file's name, line and key."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from engine.errors import UserError

_MARKS = ("<<<<<<< ", "||||||| ", ">>>>>>> ")
_Fast: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Fast):  # type: ignore[misc]
    """PyYAML's safe loader, which also refuses a repeated key instead of silently taking the last value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        first: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                line = key.start_mark.line + 1
                if key.value in first:
                    raise _Twice(key.value, line, first[key.value])
                first[key.value] = line
        return dict(super().construct_mapping(node, deep))


class _Twice(Exception):
    """A key that occurs twice in one mapping; the message names the key and the lines."""

    def __init__(self, key: str, line: int, before: int) -> None:
        super().__init__(f"line {line}: the key {key} occurs twice in one mapping (first in line {before}): keep one")


def read_yaml(path: Path | str, shown: str | None = None) -> Any:
    """Return the content of a YAML file; None for an empty file.

    Args:
        path: the file.
        shown: the file's name in error messages; by default its path.

    Raises:
        UserError: the file cannot be read, is not YAML, repeats a key in a mapping, or has merge conflict markers.

    """
    name = shown or str(path)
    return parse_yaml(read_text(path, name), name)


def read_text(path: Path | str, name: str) -> str:
    """Return the text of a file that people write; raises UserError as `read_yaml` does."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 at byte {error.start}: convert it (iconv -t UTF-8).") from error
    except OSError as error:
        raise UserError(f"{name} cannot be read ({error.strerror}): restore it, or correct its permissions.") from error


def parse_yaml(text: str, name: str) -> Any:
    """Return the content of YAML text from the file `name`; raises UserError as `read_yaml` does."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith(_MARKS):
            raise UserError(
                f"{name}, line {number}, holds the marks of an unfinished merge ({line[:7]}): keep one side of each "
                "place that they enclose."
            )
    try:
        return yaml.load(text, Loader=_Loader)
    except _Twice as error:
        raise UserError(f"{name}, {error}.") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}," if mark else ""
        problem = " ".join(part for part in (error.context, error.problem) if part)
        raise UserError(f"{name}{place} is not valid YAML ({problem}): correct it.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{name} is not valid YAML ({' '.join(str(error).split())}): correct it.") from None
