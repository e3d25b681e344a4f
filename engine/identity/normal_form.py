"""A module's normal form: its syntax tree without comments, docstrings, formatting or version-specific fields.

Our own walk over `ast`, because `ast.dump` and `ast.unparse` differ between Python versions: fields that are
empty are left out, so a field that a newer Python adds changes nothing until code uses it.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from engine.artifacts.files import digest_bytes

_IGNORED = {"ctx", "kind", "type_comment", "lineno", "col_offset", "end_lineno", "end_col_offset"}
_WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def syntax(path: Path) -> ast.Module:
    """A file's syntax tree, parsed once for as long as the file is not touched."""
    stat = path.stat()
    return _parsed(path, stat.st_mtime_ns, stat.st_size)


@cache
def digest(tree: ast.Module) -> str:
    """Hash of a tree's normal form: equal for sources that differ in comments, docstrings or layout."""
    return digest_bytes("".join(_walk(tree)).encode())


@cache
def _parsed(path: Path, mtime_ns: int, size: int) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def _walk(value: object) -> Iterator[str]:
    if isinstance(value, ast.AST):
        yield f"({type(value).__name__}"
        for name, child in ast.iter_fields(value):
            if name in _IGNORED or child is None or child == []:
                continue
            yield f" {name}="
            documented = name == "body" and isinstance(value, _WITH_DOCSTRING) and isinstance(child, list)
            yield from _walk(_without_docstring(child) if documented else child)
        yield ")"
    elif isinstance(value, list):
        yield "["
        for item in value:
            yield from _walk(item)
            yield ","
        yield "]"
    else:
        yield f"{type(value).__name__}:{value!r}"


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0]
    is_docstring = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    return body[1:] if is_docstring else body
