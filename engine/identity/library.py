"""The repository's modules, taken apart once per content; the results are saved on disk under the content's hash.

The store is a cache: if it is missing, foreign or broken, it is made again; if two runs write it at once, it holds one
version or the other, never a mixture.
"""

import json
import os
import sys
from functools import cache
from pathlib import Path

from engine.artifacts.files import digest_bytes, digest_file
from engine.errors import UserError
from engine.identity.definitions import Module, take_apart

STORE = Path(".cache/definitions.json")
_NOT_CODE = {".py", ".pyc"}
_MOST = 4000
_STANDARD = frozenset(sys.stdlib_module_names)


class Library:
    """Modules below a root, by dotted name.

    Args:
        root: the repository; its top-level packages are ours, everything else is foreign.
        known: modules taken apart before, by hash of name and content; new ones are added.

    """

    def __init__(self, root: Path, known: dict[str, Module] | None = None) -> None:
        self.root = root
        self._known = {} if known is None else known
        self._modules: dict[str, Module | None] = {}
        self._files: dict[Path, dict[str, str]] = {}
        self._splits: dict[str, tuple[str, str]] = {}

    def module(self, name: str) -> Module | None:
        """Return the module called `name`; None if it is not in the repository.

        Raises:
            UserError: the module is not Python, or imports by a computed name.

        """
        if name not in self._modules:
            path = self._find(name)
            self._modules[name] = None if path is None else self._read(name, path)
        return self._modules[name]

    def split(self, name: str) -> tuple[str, str]:
        """Return the longest module of ours that begins a dotted name, and the rest; ("", name) if there is none."""
        if name not in self._splits:
            parts = name.split(".")
            lengths = (n for n in range(len(parts), 0, -1) if self.module(".".join(parts[:n])) is not None)
            length = next(lengths, 0)
            self._splits[name] = ".".join(parts[:length]), ".".join(parts[length:])
        return self._splits[name]

    def is_foreign(self, top: str) -> bool:
        """Return whether a top-level name belongs to a distribution: neither ours nor the standard library's."""
        return top not in _STANDARD and not (self.root / top).exists()

    def data_files(self, package: Path) -> dict[str, str]:
        """Return path → hash of a package's non-Python files, in its folders that are not packages themselves."""
        if package not in self._files:
            paths = (path for path in package.rglob("*") if path.suffix not in _NOT_CODE and path.is_file())
            own = (path for path in paths if "__pycache__" not in path.parts and _in_package(path.parent, package))
            self._files[package] = {self._relative(path): digest_file(path) for path in own}
        return self._files[package]

    def with_source(self, name: str, source: str) -> "Library":
        """Return this library with another text for one module, which need not exist on disk."""
        path = self._find(name)
        other = Library(self.root, self._known)
        other._files, other._splits = self._files, self._splits  # the set of modules stays the same
        other._modules = {**self._modules, name: take_apart(source, name, self._relative(path) if path else name)}
        return other

    def _find(self, name: str) -> Path | None:
        base = self.root.joinpath(*name.split("."))
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path
        return None

    def _read(self, name: str, path: Path) -> Module:
        data = path.read_bytes()
        key = digest_bytes(f"{name} {path.name} ".encode() + data)
        if key not in self._known:
            try:
                self._known[key] = take_apart(data.decode(), name, self._relative(path))
            except (SyntaxError, ValueError) as error:
                raise UserError(f"{path} is not valid Python ({error}): correct it.") from error
        module = self._known[key]
        if module.computed_import:
            raise UserError(
                f"{path}, line {module.computed_import}: an import by a computed name hides what the "
                "stage depends on; write a plain import."
            )
        return module

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def _in_package(folder: Path, package: Path) -> bool:
    """Return whether `package` is the nearest package at or above `folder`."""
    while folder != package and not (folder / "__init__.py").is_file():
        folder = folder.parent
    return folder == package


@cache
def _maker() -> str:
    """Return the hash of the code that takes modules apart: after an edit of it, the store is foreign."""
    here = Path(__file__).parent
    return digest_bytes(
        b"".join((here / f"{name}.py").read_bytes() for name in ("definitions", "normal_form", "scope"))
    )


def load_known(root: Path) -> dict[str, Module]:
    """Return the modules taken apart by earlier runs; empty if the store is missing, foreign or broken."""
    try:
        stored = json.loads((root / STORE).read_bytes())
        if stored["maker"] != _maker():
            return {}
        return {key: Module.from_dict(module) for key, module in stored["modules"].items()}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def save_known(root: Path, known: dict[str, Module], before: int) -> None:
    """Save the modules if any were added to the first `before`; a store grown too large starts again."""
    if len(known) == before:
        return
    kept = known if len(known) <= _MOST else dict(list(known.items())[before:])
    plain = {key: module.as_dict() for key, module in kept.items()}
    path = root / STORE
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")  # a separate file for each writer
    partial.write_text(json.dumps({"maker": _maker(), "modules": plain}))
    os.replace(partial, path)
