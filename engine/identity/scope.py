"""Find the names that a function binds itself, by Python's own scoping, so that a local's name need not count.

Parameters, nested functions and classes, and local imports keep their names, because a keyword call, `__name__` or the
import itself can see them. True locals get a number instead.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_SEES_LOCALS = frozenset({"locals", "vars", "eval", "exec", "dir"})


@dataclass
class Scope:
    """Names bound in one scope: how each is shown, and what a local import binds it to."""

    shown: dict[str, str] = field(default_factory=dict)
    imports: dict[str, str] = field(default_factory=dict)
    is_class: bool = False


def absolute(node: ast.ImportFrom, package: str) -> str:
    """Return the module that a `from` statement in `package` names."""
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    parts = parts[: len(parts) - node.level + 1]
    return ".".join([*parts, node.module] if node.module else parts)


def imported(node: ast.Import | ast.ImportFrom, package: str) -> dict[str, str]:
    """Return name → dotted target for what an import statement binds (`import a.b` binds a)."""
    if isinstance(node, ast.ImportFrom):
        base = absolute(node, package)
        return {alias.asname or alias.name: f"{base}.{alias.name}" for alias in node.names}
    return {
        alias.asname or alias.name.partition(".")[0]: alias.name if alias.asname else alias.name.partition(".")[0]
        for alias in node.names
    }


def function_scope(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, package: str, depth: int) -> Scope:
    """Return a function's scope: parameters keep their names, true locals are numbered in order of appearance."""
    scope = Scope({name: name for name in parameters(node.args)})
    body = node.body if isinstance(node.body, list) else [node.body]
    if any(isinstance(inner, ast.Name) and inner.id in _SEES_LOCALS for part in body for inner in ast.walk(part)):
        scope.shown |= {name: name for name in _bound(body)}
    _bind(scope, body, package, depth)
    return scope


def class_scope(node: ast.ClassDef, package: str) -> Scope:
    """Return the scope of a class body, whose names are attributes and therefore count."""
    scope = Scope({name: name for name in _bound(node.body)}, is_class=True)
    _bind(scope, node.body, package, 0)
    return scope


def comprehension_scope(node: ast.AST, depth: int) -> Scope:
    """Return the scope of a comprehension with its targets."""
    names = [
        inner.id
        for generator in node.generators  # type: ignore[attr-defined]
        for inner in ast.walk(generator.target)
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store)
    ]
    return Scope({name: f"%{depth}.{number}" for number, name in enumerate(dict.fromkeys(names))})


def parameters(arguments: ast.arguments) -> list[str]:
    """Return all parameter names of a function."""
    plain = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [argument.arg for argument in [*plain, *filter(None, (arguments.vararg, arguments.kwarg))]]


def _bind(scope: Scope, body: list[ast.stmt] | list[ast.expr], package: str, depth: int) -> None:
    outer: set[str] = set()
    for node in _own(body):
        if isinstance(node, (ast.Global, ast.Nonlocal)):
            outer.update(node.names)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            scope.imports |= imported(node, package)
            scope.shown |= {name: name for name in imported(node, package)}
        elif isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            scope.shown[node.name] = node.name
    number = 0
    for name in _bound(body):
        if name not in scope.shown and name not in outer:
            scope.shown[name] = f"%{depth}.{number}"
            number += 1
    for name in outer:
        scope.shown.pop(name, None)


def _bound(body: list[ast.stmt] | list[ast.expr]) -> dict[str, None]:
    """Return the names that statements of a scope assign, in order."""
    names: dict[str, None] = {}
    for node in _own(body):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            names[node.id] = None
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
            names[node.name] = None
        elif isinstance(node, ast.MatchMapping) and node.rest:
            names[node.rest] = None
        elif isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            names[node.name] = None
    return names


def _own(body: list[ast.stmt] | list[ast.expr]) -> Iterator[ast.AST]:
    """Yield the nodes of a scope in order, without what belongs to scopes inside it."""
    waiting: list[ast.AST] = list(reversed(body))
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, (*FUNCTIONS, ast.ClassDef, ast.Lambda)):
            waiting += reversed(_outside(node))
        elif isinstance(node, COMPREHENSIONS):
            waiting += reversed([*_walrus(node), node.generators[0].iter])
        else:
            waiting += reversed(list(ast.iter_child_nodes(node)))


def _outside(node: ast.AST) -> list[ast.AST]:
    """Return the parts of a definition that its surroundings evaluate: decorators, defaults, bases."""
    if isinstance(node, ast.ClassDef):
        return [*node.decorator_list, *node.bases, *(keyword.value for keyword in node.keywords)]
    if isinstance(node, ast.Lambda):
        return [*node.args.defaults, *filter(None, node.args.kw_defaults)]
    assert isinstance(node, FUNCTIONS)
    return [*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)]


def _walrus(node: ast.AST) -> list[ast.AST]:
    """Return the targets of `:=` in a comprehension, which belong to the surrounding function."""
    return [inner.target for inner in ast.walk(node) if isinstance(inner, ast.NamedExpr)]
