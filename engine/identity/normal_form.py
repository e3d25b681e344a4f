"""The normal form of a definition: its syntax tree without parts that cannot change its behaviour, and what it uses.

The form leaves out comments, layout, docstrings, annotations of functions and of module-level names, the names of
local variables, and log text. Log text is the literal text in two kinds of calls whose value nobody uses: a method in
`_LEVELS` of a logger (a variable or attribute named in `_LOGGERS`), and `print` to sys.stderr. Code that reports to
people can keep to that rule, as the trainer's journal does (engine/training/journal). Everything else stays, including
annotations of class fields.

This module walks over `ast` itself, because `ast.dump` and `ast.unparse` differ between Python versions. It leaves out
empty fields, so that a field which a newer Python adds changes nothing until code uses it. Annotations and docstrings
are digested separately, for the few places where something reads them.
"""

import ast
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from engine.artifacts.files import digest_bytes
from engine.identity.scope import (
    Scope,
    absolute,
    class_scope,
    comprehension_scope,
    function_scope,
)

_IGNORED = frozenset({"ctx", "kind", "type_comment", "type_ignores"})
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_NAMING = (
    *(ast.Name, ast.Attribute, ast.Subscript, ast.Constant, ast.Tuple, ast.List, ast.BinOp, ast.UnaryOp, ast.Starred),
    *(ast.operator, ast.unaryop, ast.expr_context),
)
"""The nodes of an annotation that only looks names up."""
_LOGGERS = frozenset({"log", "logger", "logging", "_log", "_logger", "LOG", "LOGGER"})
_LEVELS = frozenset({"debug", "info", "warning", "error", "exception", "critical"})

BLIND = frozenset({
    "abstractmethod", "cache", "cached_property", "classmethod", "contextmanager", "dataclass", "field_validator",
    "final", "inference_mode", "lru_cache", "model_validator", "no_grad", "once_differentiable", "overload",
    "override", "property", "runtime_checkable", "setter", "staticmethod", "total_ordering", "wraps",
})  # fmt: skip
"""Decorators that neither read a function's annotations nor register the function."""


@dataclass
class Form:
    """The result of a walk over a definition."""

    text: list[str] = field(default_factory=list)
    annotations: list[str] = field(default_factory=list)
    docstrings: list[str] = field(default_factory=list)
    uses: set[str] = field(default_factory=set)
    """Chains `name.attribute.…` whose name comes from the module or the built-ins; local imports by their full name."""
    annotation_uses: set[str] = field(default_factory=set)
    imports: set[str] = field(default_factory=set)
    """Modules that functions import."""
    strings: set[str] = field(default_factory=set)
    """Strings that look like dotted names."""


def decorator_name(node: ast.expr) -> str:
    """Return the last name of a decorator: `@torch.no_grad()` → no_grad."""
    called = node.func if isinstance(node, ast.Call) else node
    return called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")


def normal_form(nodes: list[ast.stmt], package: str) -> Form:
    """Return the form of a definition's statements; `package` is where its relative imports start."""
    writer = _Writer(package)
    for node in nodes:
        writer.write(node)
    return writer.form


def digest(tree: ast.Module, package: str = "") -> str:
    """Return the hash of a whole module's normal form."""
    return digest_bytes("".join(normal_form(_body(tree.body), package).text).encode())


def _body(body: list[ast.stmt]) -> list[ast.stmt]:
    """Return the statements without docstrings and other strings that are statements."""
    return [node for node in body if not _is_string(node)]


def _is_string(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


class _Writer:
    def __init__(self, package: str) -> None:
        self.form = Form()
        self._package = package
        self._scopes: list[Scope] = []
        self._out = self.form.text
        self._uses = self.form.uses
        self._strings = self.form.strings

    def write(self, value: object) -> None:
        """Append the normal form of a node, a list or a plain value."""
        if isinstance(value, ast.AST):
            special = getattr(self, f"_{type(value).__name__}", None)
            if special:
                special(value)
            else:
                self._node(value)
        elif isinstance(value, list):
            self._out.append("[")
            for item in value:
                self.write(item)
                self._out.append(",")
            self._out.append("]")
        else:
            self._out.append(f"{type(value).__name__}:{value!a}")

    def _node(self, node: ast.AST, **instead: object) -> None:
        """Append a node with all its fields; `instead` gives other values for some, None to leave one out."""
        self._out.append(f"({type(node).__name__}")
        for name in node._fields:
            child = instead[name] if name in instead else getattr(node, name, None)
            if name in _IGNORED or child is None or child == []:
                continue
            self._out.append(f" {name}=")
            self.write(child)
        self._out.append(")")

    # names

    def _look_up(self, name: str) -> tuple[str, str | None, bool]:
        """Return how the form shows a name, what a local import binds it to, and whether a scope here binds it."""
        for depth, scope in enumerate(reversed(self._scopes)):
            if name in scope.shown and not (scope.is_class and depth):
                return scope.shown[name], scope.imports.get(name), True
        return name, None, False

    def _use(self, name: str, rest: str = "") -> None:
        _, target, ours = self._look_up(name)
        if target is not None:
            self._uses.add(f"{target}{rest}")
        elif not ours:
            self._uses.add(f":{name}{rest}")

    def _Name(self, node: ast.Name) -> None:
        self._use(node.id)
        self._out.append(f"(Name {self._look_up(node.id)[0]})")

    def _Attribute(self, node: ast.Attribute) -> None:
        chain: list[str] = []
        inner: ast.expr = node
        while isinstance(inner, ast.Attribute):
            chain.append(inner.attr)
            inner = inner.value
        if not isinstance(inner, ast.Name):
            self._node(node)
            return
        rest = ".".join(reversed(chain))
        self._use(inner.id, f".{rest}")
        self._out.append(f"(Attribute {self._look_up(inner.id)[0]} {rest})")

    def _Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and _DOTTED.fullmatch(node.value):
            self._strings.add(node.value)
        self._out.append(f"({type(node.value).__name__}:{node.value!a})")

    def _JoinedStr(self, node: ast.JoinedStr) -> None:
        """Append an f-string with adjacent text joined, since Python versions split it differently."""
        pieces: list[object] = []
        for part in node.values:
            if isinstance(part, ast.Constant) and pieces and isinstance(pieces[-1], str):
                pieces[-1] += str(part.value)
            elif not (isinstance(part, ast.Constant) and part.value == ""):
                pieces.append(str(part.value) if isinstance(part, ast.Constant) else part)
        self._node(node, values=pieces)

    def _named(self, node: ast.ExceptHandler | ast.MatchAs | ast.MatchStar) -> None:
        self._node(node, name=node.name and self._look_up(node.name)[0])

    _ExceptHandler = _MatchAs = _MatchStar = _named

    def _Nonlocal(self, node: ast.Nonlocal) -> None:
        self._node(node, names=[self._look_up(name)[0] for name in node.names])

    def _MatchMapping(self, node: ast.MatchMapping) -> None:
        self._node(node, rest=node.rest and self._look_up(node.rest)[0])

    def _Import(self, node: ast.Import) -> None:
        self.form.imports.update(alias.name for alias in node.names)
        self._node(node)

    def _ImportFrom(self, node: ast.ImportFrom) -> None:
        base = absolute(node, self._package)
        self.form.imports.update([base, *(f"{base}.{alias.name}" for alias in node.names)])
        self._node(node, module=base, level=None)

    # scopes

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        keep = any(decorator_name(decorator) not in BLIND for decorator in node.decorator_list)
        self._docstrings(node.body)
        self._annotations(node, keep)
        self._out.append(f"({type(node).__name__} {node.name}")
        self.write(node.decorator_list)
        self._arguments(node.args)
        self._inside(function_scope(node, self._package, len(self._scopes)), _body(node.body))
        self._out.append(")")

    _FunctionDef = _AsyncFunctionDef = _function

    def _arguments(self, node: ast.arguments) -> None:
        """Append parameters without annotations."""
        for kind in ("posonlyargs", "args", "kwonlyargs"):
            self._out.append(f" {kind}={','.join(argument.arg for argument in getattr(node, kind))}")
        self._out.append(f" *{node.vararg.arg if node.vararg else ''} **{node.kwarg.arg if node.kwarg else ''}")
        self.write(node.defaults)
        self.write([default or "required" for default in node.kw_defaults])

    def _annotations(self, node: ast.FunctionDef | ast.AsyncFunctionDef, keep: bool) -> None:
        """Append a function's annotations: to the form if its decorator may read them, else to a separate list."""
        every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        annotations = [
            argument.annotation
            for argument in [*every, node.args.vararg, node.args.kwarg]
            if argument and argument.annotation
        ]
        annotations += [node.returns] if node.returns else []
        if keep:
            self.write(annotations)
        else:
            self._apart(annotations)

    def _apart(self, annotations: list[ast.expr]) -> None:
        """Append annotations to the separate list, strings also parsed; to the form too if evaluating them may act."""
        form = self.form
        if acting := [annotation for annotation in annotations if not _only_names(annotation)]:
            self.write(acting)
        self._out, self._uses, self._strings = form.annotations, form.annotation_uses, set()
        self.write(annotations)
        self.write([parsed for annotation in annotations for parsed in _unquoted(annotation)])
        self._out, self._uses, self._strings = form.text, form.uses, form.strings

    def _docstrings(self, body: list[ast.stmt]) -> None:
        self.form.docstrings += [
            ast.literal_eval(node.value) for node in body if isinstance(node, ast.Expr) and _is_string(node)
        ]

    def _Lambda(self, node: ast.Lambda) -> None:
        self._out.append("(Lambda")
        self._arguments(node.args)
        self._inside(function_scope(node, self._package, len(self._scopes)), node.body)
        self._out.append(")")

    def _ClassDef(self, node: ast.ClassDef) -> None:
        self._docstrings(node.body)
        self._out.append(f"(ClassDef {node.name}")
        for part in (node.decorator_list, node.bases, node.keywords):
            self.write(part)
        self._inside(class_scope(node, self._package), _body(node.body))
        self._out.append(")")

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> None:
        self._out.append(f"({type(node).__name__} over=")
        self.write(node.generators[0].iter)
        self._scopes.append(comprehension_scope(node, len(self._scopes)))
        for number, generator in enumerate(node.generators):
            self._node(generator, **({"iter": None} if number == 0 else {}))
        for name in ("elt", "key", "value"):
            self.write(getattr(node, name, None))
        self._scopes.pop()
        self._out.append(")")

    _ListComp = _SetComp = _DictComp = _GeneratorExp = _comprehension

    def _inside(self, scope: Scope, body: object) -> None:
        self._scopes.append(scope)
        self.write(body)
        self._scopes.pop()

    # what only people read

    def _AnnAssign(self, node: ast.AnnAssign) -> None:
        """Append an annotated assignment as a plain one, except in a class, whose fields may be made of annotations."""
        if self._scopes and self._scopes[-1].is_class:
            self._node(node)
            return
        if not self._scopes:  # never evaluated in a function
            self._apart([node.annotation])
        if node.value is not None and isinstance(node.target, ast.Name):
            self._node(ast.Assign([node.target], node.value))
        else:
            self._node(node, annotation=None)

    def _Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call) and _is_log(node.value):
            self._node(node, value=None)
            call = node.value
            for part in (call.func, [_without_text(argument) for argument in call.args], call.keywords):
                self.write(part)
        else:
            self._node(node)


def _only_names(annotation: ast.expr) -> bool:
    """Return whether evaluating an annotation does nothing but look names up."""
    return all(isinstance(one, _NAMING) for one in ast.walk(annotation))


def _unquoted(annotation: ast.expr) -> Iterator[ast.expr]:
    """Yield the parsed content of the strings in an annotation that are annotations themselves, as in `"Tensor"`."""
    for one in ast.walk(annotation):
        if isinstance(one, ast.Constant) and isinstance(one.value, str):
            with suppress(SyntaxError, ValueError):
                yield ast.parse(one.value.strip(), mode="eval").body


def _is_log(call: ast.Call) -> bool:
    """Return whether a call whose value nobody uses only informs people: a logger's, or print to standard error."""
    function = call.func
    if isinstance(function, ast.Name):
        streams = [keyword.value for keyword in call.keywords if keyword.arg == "file"]
        return function.id == "print" and len(streams) == 1 and _dotted(streams[0]) == "sys.stderr"
    if not isinstance(function, ast.Attribute):
        return False
    receiver = _dotted(function.value).rpartition(".")[2]
    return receiver in _LOGGERS and function.attr in _LEVELS


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _without_text(node: ast.expr) -> object:
    """Return a log call's argument without literal text; the values shown in it are evaluated, so they count."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return "text"
    if isinstance(node, ast.JoinedStr):
        return [value for value in node.values if isinstance(value, ast.FormattedValue)]
    return node
