"""Which files and distributions a module can reach by importing, without importing anything.

An import counts wherever it stands, inside a function too (that is where the heavy ones are). A package's
`__init__` counts with each of its modules. An import by a computed name cannot be decided here, so it is refused.
"""

import ast
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from engine.errors import UserError
from engine.identity.normal_form import syntax

_STANDARD = frozenset(sys.stdlib_module_names)


@dataclass(frozen=True)
class Reach:
    """What an entry can reach: our own modules by dotted name, and the top-level names of foreign packages."""

    modules: dict[str, Path]
    foreign: frozenset[str]


def reach(root: Path, entries: list[str], leave_out: frozenset[str] = frozenset()) -> Reach:
    """Follow imports from `entries` (dotted module names) through the repository at `root`.

    Args:
        root: the repository; its top-level packages are ours, everything else is foreign.
        entries: modules to start from.
        leave_out: modules (and what is below them) that cannot change what the entries make.

    Raises:
        UserError: an entry does not exist, or an import's name is computed.

    """
    modules: dict[str, Path] = {}
    foreign: set[str] = set()
    waiting = list(entries)
    for entry in entries:
        if _find(root, entry) is None:
            raise UserError(
                f"kedro.yml names the module {entry}, which is not in {root}: create it or correct the entry."
            )
    while waiting:
        name = waiting.pop()
        if name in modules:
            continue
        path = _find(root, name)
        if path is None:
            top = name.partition(".")[0]
            if not (root / top).exists() and top not in _STANDARD:
                foreign.add(top)
            continue
        modules[name] = path
        if "." in name:
            waiting.append(name.rpartition(".")[0])
        waiting.extend(one for one in _imports(syntax(path), path, name) if not _below(one, leave_out))
    return Reach(dict(sorted(modules.items())), frozenset(foreign))


def _find(root: Path, name: str) -> Path | None:
    base = root.joinpath(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _below(name: str, tops: frozenset[str]) -> bool:
    return any(name == top or name.startswith(f"{top}.") for top in tops)


@cache
def _imports(tree: ast.Module, path: Path, name: str) -> list[str]:
    """Dotted names that a file imports; `from a import b` gives both `a` and `a.b`, for b may be a module."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
        elif _is_computed_import(node):
            raise UserError(
                f"{path}, line {getattr(node, 'lineno', 0)}: an import by a computed name hides what the "
                "stage depends on; write a plain import."
            )
    return found


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    parts = parts[: len(parts) - node.level + 1]
    return ".".join([*parts, node.module] if node.module else parts)


def _is_computed_import(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if called not in {"import_module", "__import__"}:
        return False
    return not (node.args and isinstance(node.args[0], ast.Constant))
