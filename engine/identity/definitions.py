"""Take a module apart: its definitions, what each refers to, and what happens when it is imported.

A definition is a function, a class with its methods, or an assignment to a plain name. All other statements at a
module's top level, and definitions that may act when they are made (a decorator that may register something, a call
that may do anything), count for every importer of the module.
"""

import ast
import builtins
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from engine.artifacts.files import digest_bytes
from engine.identity.normal_form import BLIND, decorator_name, normal_form
from engine.identity.scope import FUNCTIONS, absolute, imported

AT_IMPORT = "<import>"
"""The name under which a module's import-time statements are recorded."""

_OPAQUE = frozenset({"globals", "locals", "eval", "exec", "__import__"})
_DYNAMIC = frozenset({"import_module", "__import__", "run_module", "run_path"})
_READS_TEXT = frozenset({
    "TypeAdapter", "__annotations__", "__doc__", "create_model", "get_annotations", "get_type_hints", "getdoc",
    "getfullargspec", "getsource", "getsourcelines", "linecache", "signature", "functools.singledispatch",
    "functools.singledispatchmethod", "pydantic.validate_call",
})  # fmt: skip
_FINDS_CLASSES = frozenset({"__subclasses__", "__init_subclass__", "__set_name__", "__prepare__"})
_HARMLESS = frozenset({
    "Annotated", "Any", "ConfigDict", "Counter", "Decimal", "Field", "Fraction", "NewType", "OrderedDict",
    "ParamSpec", "Path", "TypeVar", "all", "any", "array", "bool", "bytes", "compile", "dedent", "defaultdict",
    "dict", "encode", "enumerate", "field", "float", "format", "frozenset", "fromkeys", "get", "getLogger", "int",
    "items", "itemgetter", "join", "keys", "len", "list", "log", "lower", "map", "max", "min", "namedtuple",
    "partial", "range", "replace", "resolve", "rstrip", "set", "sorted", "split", "splitlines", "sqrt", "str",
    "strip", "sum", "tuple", "upper", "values", "with_name", "with_suffix", "zip",
})  # fmt: skip
"""Callables, by their last name, that only compute a value."""


@dataclass(frozen=True)
class Definition:
    """One definition: hashes of its normal form, and the dotted names that it refers to."""

    form: str
    annotations: str
    docstrings: str
    line: int
    uses: tuple[str, ...]
    annotation_uses: tuple[str, ...]
    imports: tuple[str, ...]
    strings: tuple[str, ...]
    is_subclass: bool


@dataclass(frozen=True)
class Module:
    """A module's parts: `bindings` are the names that its imports bind, `always` what counts once it is imported."""

    name: str
    path: str
    definitions: dict[str, Definition]
    bindings: dict[str, str]
    imports: tuple[str, ...]
    always: tuple[str, ...]
    opaque: bool
    reads_text: bool
    finds_classes: bool
    computed_import: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for the store."""
        return asdict(self)

    @staticmethod
    def from_dict(plain: dict[str, Any]) -> "Module":
        """Build a module from what `as_dict` returned."""
        kept = {name: Definition(**_tuples(definition)) for name, definition in plain["definitions"].items()}
        return Module(**_tuples({**plain, "definitions": kept}))


def _tuples(plain: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()}


@dataclass
class _Parts:
    """A module's top-level statements, sorted by kind."""

    named: dict[str, list[ast.stmt]] = field(default_factory=dict)
    loose: list[ast.stmt] = field(default_factory=list)
    bindings: dict[str, str] = field(default_factory=dict)
    imports: set[str] = field(default_factory=set)
    always: set[str] = field(default_factory=set)
    loose_names: set[str] = field(default_factory=set)
    star: bool = False


def take_apart(source: str, name: str, path: str) -> Module:
    """Parse a module into its parts.

    Args:
        source: the module's text.
        name: the module's dotted name.
        path: the module's file, relative to the repository.

    """
    tree = ast.parse(source, filename=path)
    package = name if path.endswith("__init__.py") else name.rpartition(".")[0]
    parts = _Parts()
    _sort(tree.body, package, parts)
    definitions = {defined: _define(nodes, name, package, parts) for defined, nodes in parts.named.items()}
    if parts.loose:
        definitions[AT_IMPORT] = _define(parts.loose, name, package, parts)
        parts.always.add(AT_IMPORT)
    mentioned = set(_mentioned(tree))
    return Module(
        name=name,
        path=path,
        definitions=dict(sorted(definitions.items())),
        bindings=dict(sorted(parts.bindings.items())),
        imports=tuple(sorted(parts.imports)),
        always=tuple(sorted(parts.always)),
        opaque=parts.star or "__getattr__" in parts.named or bool(mentioned & _OPAQUE) or "sys.modules" in mentioned,
        reads_text=bool(mentioned & _READS_TEXT),
        finds_classes=bool(mentioned & _FINDS_CLASSES),
        computed_import=next(_computed_imports(tree), 0),
    )


def _sort(body: list[ast.stmt], package: str, parts: _Parts) -> None:
    for node in body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            _bind_import(node, package, parts)
        elif names := _names(node):
            for defined in names:
                parts.named.setdefault(defined, []).append(node)
                if _acts(node):
                    parts.always.add(defined)
        elif isinstance(node, ast.If) and ast.unparse(node.test).rpartition(".")[2] == "TYPE_CHECKING":
            _sort(node.orelse, package, parts)
        elif not (isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))):
            parts.loose.append(node)
            _bind_loose(node, package, parts)


def _bind_import(node: ast.Import | ast.ImportFrom, package: str, parts: _Parts) -> None:
    parts.bindings |= imported(node, package)
    if isinstance(node, ast.Import):
        parts.imports.update(alias.name for alias in node.names)
        return
    base = absolute(node, package)
    parts.imports.update([base, *(f"{base}.{alias.name}" for alias in node.names)])
    parts.star |= any(alias.name == "*" for alias in node.names)


def _bind_loose(node: ast.stmt, package: str, parts: _Parts) -> None:
    """Record what a statement such as `try: import x` binds: names of the module without definitions of their own."""
    for inner in ast.walk(node):
        if isinstance(inner, (ast.Import, ast.ImportFrom)):
            _bind_import(inner, package, parts)
        elif isinstance(inner, (*FUNCTIONS, ast.ClassDef)):
            parts.loose_names.add(inner.name)
        elif isinstance(inner, ast.Name) and not isinstance(inner.ctx, ast.Load):
            parts.loose_names.add(inner.id)


def _names(node: ast.stmt) -> list[str]:
    """Return the plain names that a top-level statement defines; an empty list if it does something else."""
    if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.Assign):
        flat = [
            item for target in node.targets for item in (target.elts if isinstance(target, ast.Tuple) else [target])
        ]
        return [item.id for item in flat if isinstance(item, ast.Name)] if _all_names(flat) else []
    if isinstance(node, (ast.AnnAssign, ast.AugAssign)) and isinstance(node.target, ast.Name):
        return [node.target.id]
    return []


def _all_names(nodes: list[ast.expr]) -> bool:
    return all(isinstance(item, ast.Name) for item in nodes)


def _acts(node: ast.stmt) -> bool:
    """Return whether making a definition may do more than bind its name."""
    if isinstance(node, FUNCTIONS):
        return _decorated(node) or any(map(_calls, [*node.args.defaults, *filter(None, node.args.kw_defaults)]))
    if isinstance(node, ast.ClassDef):
        return bool(node.keywords) or _decorated(node) or any(map(_acts, node.body)) or any(map(_calls, node.bases))
    if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        return node.value is not None and _calls(node.value)
    return not isinstance(node, (ast.Pass, ast.Expr)) or (isinstance(node, ast.Expr) and _calls(node.value))


def _decorated(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    return any(decorator_name(decorator) not in BLIND for decorator in node.decorator_list)


def _calls(node: ast.AST) -> bool:
    """Return whether evaluating an expression calls something that may act; a lambda's body is not evaluated."""
    if isinstance(node, ast.Lambda):
        return any(map(_calls, node.args.defaults))
    if isinstance(node, ast.Call) and decorator_name(node) not in _HARMLESS:
        return True
    return isinstance(node, ast.NamedExpr) or any(map(_calls, ast.iter_child_nodes(node)))


def _define(nodes: list[ast.stmt], module: str, package: str, parts: _Parts) -> Definition:
    form = normal_form(nodes, package)
    uses, bound = _resolve(form.uses, module, parts)
    annotation_uses, _ = _resolve(form.annotation_uses, module, parts)
    return Definition(
        form=_digest([*form.text, *bound]),
        annotations=_digest(form.annotations),
        docstrings=_digest(form.docstrings),
        line=nodes[0].lineno,
        uses=uses,
        annotation_uses=annotation_uses,
        imports=tuple(sorted(form.imports)),
        strings=tuple(sorted(form.strings)),
        is_subclass=any(isinstance(node, ast.ClassDef) and node.bases for node in nodes),
    )


def _resolve(uses: set[str], module: str, parts: _Parts) -> tuple[tuple[str, ...], list[str]]:
    """Return chains as full dotted names, and what imports bind their first names to (which is part of the form)."""
    dotted: set[str] = set()
    bound: set[str] = set()
    for use in uses:
        if not use.startswith(":"):
            dotted.add(use)
            continue
        first, _, rest = use[1:].partition(".")
        if first in parts.named or first in parts.loose_names:
            dotted.add(f"{module}.{first}")
        if first in parts.bindings:
            dotted.add(".".join(filter(None, (parts.bindings[first], rest))))
            bound.add(f" {first}={parts.bindings[first]}")
        elif parts.star and not hasattr(builtins, first):
            dotted.add(f"{module}.{first}")  # from whatever module a star has imported
    return tuple(sorted(dotted)), sorted(bound)


def _digest(text: Iterable[str]) -> str:
    return digest_bytes("".join(text).encode())


def _mentioned(tree: ast.Module) -> Iterator[str]:
    """Yield every name and attribute that a module's code mentions; `model.eval` is not the same as `eval`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr if node.attr not in _OPAQUE else f".{node.attr}"
            if node.attr == "modules" and isinstance(node.value, ast.Name) and node.value.id == "sys":
                yield "sys.modules"
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield from (alias.name, f"{node.module}.{alias.name}")
        elif isinstance(node, (ast.alias, *FUNCTIONS)):
            yield node.name


def _computed_imports(tree: ast.Module) -> Iterator[int]:
    """Yield the lines of imports whose name is computed."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and decorator_name(node) in _DYNAMIC:
            named = node.args and isinstance(node.args[0], ast.Constant)
            yield from () if named else (node.lineno,)
