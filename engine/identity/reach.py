"""Find the definitions that an entry can reach, without importing anything.

The walk begins at the entries and follows each definition's uses through imports (`from` or plain, at the top or inside
a function) and re-exports. A module that is imported on the way counts with what it does at import, and so do the
packages above it. Where a use cannot be decided the whole module counts: if it is passed on as a value, if it does not
visibly define the name, looks into `globals()` or imports `*`. A string that names one of our modules counts as a use
of it (`python -m engine.llm.local`).
"""

from dataclasses import dataclass, field

from engine.errors import UserError
from engine.identity.definitions import Definition, Module
from engine.identity.library import Library

_NO_MODELS = frozenset({"collections", "pathlib", "types", "typing"})
"""Modules of the standard library that hold neither a dataclass nor a pydantic model."""


@dataclass
class Reach:
    """The result of a walk: definitions by dotted name, imported modules, top-level names of foreign packages."""

    definitions: dict[str, Definition] = field(default_factory=dict)
    reexports: dict[str, str] = field(default_factory=dict)
    """Names that a module re-exports from another: dotted name → the full name of what it means."""
    modules: dict[str, Module] = field(default_factory=dict)
    foreign: set[str] = field(default_factory=set)
    wired: set[str] = field(default_factory=set)
    """The definitions that the wiring module hands to Kedro."""

    @property
    def reads_text(self) -> bool:
        """Whether a module imported on the way may read annotations or docstrings."""
        return any(module.reads_text for module in self.modules.values())

    @property
    def annotated(self) -> set[str]:
        """The definitions whose annotations count: all if something may read them, else those that Kedro acts on.

        Kedro reads the parameter types of a node's function, and makes an instance where a type is a pydantic model or
        a dataclass; it passes over built-in types and those of `_NO_MODELS`.
        """
        if self.reads_text:
            return set(self.definitions)
        return {name for name in self.wired if _may_name_a_model(self.definitions[name])}


def reach(library: Library, entries: list[str], leave_out: frozenset[str] = frozenset(), wiring: str = "") -> Reach:
    """Follow uses from `entries` and return what they reach.

    Args:
        library: the repository's modules.
        entries: dotted names; a module counts as a whole, a definition with what it uses.
        leave_out: modules (and those below them) that cannot change what the entries make.
        wiring: the module that hands functions to Kedro, which may read their annotations.

    Raises:
        UserError: an entry does not exist, or an import's name is computed.

    """
    walk = _Walk(library, leave_out, wiring)
    for entry in entries:
        if not walk.is_ours(entry):
            raise UserError(
                f"kedro.yml or the catalog names {entry}, which is not in {library.root}: "
                "create it or correct the entry."
            )
        walk.use(entry)
    walk.finish()
    return walk.reached


class _Walk:
    def __init__(self, library: Library, leave_out: frozenset[str], wiring: str) -> None:
        self.library = library
        self.reached = Reach()
        self._leave_out = leave_out
        self._wiring = wiring
        self._waiting: list[str] = []
        self._whole: set[str] = set()
        self._annotated: set[str] = set()

    def is_ours(self, name: str) -> bool:
        """Return whether a dotted name is a module of ours or may be defined in one."""
        module, rest = self._split(name)
        return module is not None and (not rest or "." not in rest)

    def finish(self) -> None:
        """Follow everything in the queue until nothing new appears."""
        while self._waiting or self._registered() or self._read():
            name = self._waiting.pop()
            definition = self.reached.definitions[name]
            for imported in definition.imports:
                self._import(imported)
            for use in definition.uses:
                self.use(use, wired=name.rpartition(".")[0] == self._wiring)
            for string in definition.strings:
                if self.library.module(string.partition(".")[0]) is not None:
                    self.use(string)

    def use(self, name: str, wired: bool = False) -> None:
        """Reach the module or the definition that a dotted name means."""
        module, rest = self._split(name)
        if module is None or self._left_out(name):
            self._foreign(name)
            return
        self._import(module.name)
        if not rest:
            self._all_of(module)
            return
        first, _, more = rest.partition(".")
        if first in module.definitions:
            self._reach(module, first, wired)
        elif first in module.bindings:
            target = module.bindings[first]
            self.reached.reexports[f"{module.name}.{first}"] = target
            self.use(f"{target}.{more}" if more else target, wired)
        else:
            self._all_of(module)

    def _split(self, name: str) -> tuple[Module | None, str]:
        """Return the longest module of ours that a dotted name begins with, and the rest."""
        owner, rest = self.library.split(name)
        return (self.library.module(owner), rest) if owner else (None, name)

    def _left_out(self, name: str) -> bool:
        return any(name == top or name.startswith(f"{top}.") for top in self._leave_out)

    def _foreign(self, name: str) -> None:
        top = name.partition(".")[0]
        if top and self.library.is_foreign(top):
            self.reached.foreign.add(top)

    def _import(self, name: str) -> None:
        """Import a module: the packages above it, its own imports, and what it does at import."""
        module = self.library.module(name)
        if module is None or name in self.reached.modules or self._left_out(name):
            if module is None:
                self._foreign(name)
            return
        self.reached.modules[name] = module
        if "." in name:
            self._import(name.rpartition(".")[0])
        for imported in module.imports:
            self._import(imported)
        for name_ in module.always:
            self._reach(module, name_)
        if module.opaque:
            self._all_of(module)

    def _all_of(self, module: Module) -> None:
        """Reach a whole module; if it looks names up dynamically, also everything that it imports."""
        if module.name in self._whole:
            return
        self._whole.add(module.name)
        for name in module.definitions:
            self._reach(module, name)
        if module.opaque:
            for target in module.bindings.values():
                self.use(target.removesuffix(".*"))

    def _reach(self, module: Module, name: str, wired: bool = False) -> None:
        dotted = f"{module.name}.{name}"
        if wired:
            self.reached.wired.add(dotted)
        if dotted not in self.reached.definitions:
            self.reached.definitions[dotted] = module.definitions[name]
            self._waiting.append(dotted)

    def _read(self) -> bool:
        """Reach what the annotations that count name; return whether any of it was new."""
        for name in self.reached.annotated - self._annotated:
            self._annotated.add(name)
            for use in self.reached.definitions[name].annotation_uses:
                self.use(use)
        return bool(self._waiting)

    def _registered(self) -> bool:
        """Reach the classes that an imported module may discover by itself; return whether any was new."""
        if not any(module.finds_classes for module in self.reached.modules.values()):
            return False
        for module in list(self.reached.modules.values()):
            for name, definition in module.definitions.items():
                if definition.is_subclass:
                    self._reach(module, name)
        return bool(self._waiting)


def _may_name_a_model(definition: Definition) -> bool:
    """Return whether an annotation of a definition names what may be a dataclass or a pydantic model."""
    return any(use.partition(".")[0] not in _NO_MODELS for use in definition.annotation_uses)
