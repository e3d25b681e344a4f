"""Seeded edits of the real tree: those that change what code does, and those that do not.

This module does not use the fingerprint's own analysis: it finds annotations, log texts and locals by itself.
"""

import ast
import io
import random
import re
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr, ast.And: ast.Or, ast.Or: ast.And,
    ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """The place of an edit: module and file, the function around it (first line, qualified name), class, constant."""

    module: str
    path: str
    function: tuple[int, str] | None = None
    kind: str | None = None
    constant: str | None = None


@dataclass(frozen=True)
class Mutation:
    """One edit: the module's new text."""

    kind: str
    place: Place
    source: str


@dataclass
class Site:
    """A node that can be edited, and its edit."""

    kind: str
    place: Place
    edit: Callable[[], None]


def modules(
    root: Path, tops: tuple[str, ...] = ("engine", "kernels", "nodes", "pipelines", "studies")
) -> dict[str, str]:
    """Return dotted name → path of every module."""
    paths = {}
    for top in tops:
        for path in sorted((root / top).rglob("*.py")):
            name = path.relative_to(root).as_posix()
            paths[name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")] = name
    return paths


def behaviour(root: Path, name: str, path: str, random_: random.Random) -> dict[str, Mutation]:
    """Return one edit for each of up to four kinds that are possible in the module."""
    text = (root / path).read_text()
    mutations: dict[str, Mutation] = {}
    kinds = sorted({site.kind for site in sites(ast.parse(text), name, path)})
    for kind in random_.sample(kinds, min(4, len(kinds))):
        tree = ast.parse(text)
        site = random_.choice([site for site in sites(tree, name, path) if site.kind == kind])
        site.edit()
        mutations[kind] = Mutation(kind, site.place, ast.unparse(ast.fix_missing_locations(tree)))
    return mutations


def sites(tree: ast.Module, name: str, path: str) -> Iterator[Site]:
    """Yield every place of a module where an edit changes what the code does."""
    for node in tree.body:
        if isinstance(node, FUNCTIONS):
            yield from _function(node, Place(name, path), "")
        elif isinstance(node, ast.ClassDef):
            yield from _class(node, Place(name, path), "")
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and len(node.targets) == 1:
            place = Place(name, path, constant=node.targets[0].id)
            for one in ast.walk(node.value):
                if isinstance(one, ast.Constant):
                    yield Site("module constant", place, lambda one=one: _change(one))


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef, outer: Place, prefix: str) -> Iterator[Site]:
    first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
    qualified = f"{prefix}{node.name}"
    place = Place(outer.module, outer.path, (first, qualified), outer.kind)
    for default in [*node.args.defaults, *filter(None, node.args.kw_defaults)]:
        if isinstance(default, ast.Constant):
            yield Site("default argument", place, lambda one=default: _change(one))
    yield from _decorators(node, place)
    for child in node.body:
        yield from _statement(child, node.body, place, f"{qualified}.<locals>.")


def _class(node: ast.ClassDef, outer: Place, prefix: str) -> Iterator[Site]:
    place = Place(outer.module, outer.path, None, f"{prefix}{node.name}")
    yield from _decorators(node, place)
    for child in node.body:
        if isinstance(child, FUNCTIONS):
            yield from _function(child, place, f"{prefix}{node.name}.")
        elif isinstance(child, ast.AnnAssign):
            yield Site("field type", place, lambda one=child: setattr(one, "annotation", ast.Name("object")))
            if isinstance(child.value, ast.Constant):
                yield Site("field default", place, lambda one=child.value: _change(one))
        elif isinstance(child, ast.Assign):
            for one in ast.walk(child.value):
                if isinstance(one, ast.Constant):
                    yield Site("class attribute", place, lambda one=one: _change(one))


def _decorators(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, place: Place) -> Iterator[Site]:
    for decorator in node.decorator_list:
        for word in decorator.keywords if isinstance(decorator, ast.Call) else []:
            if isinstance(word.value, ast.Constant):
                yield Site("decorator argument", place, lambda one=word.value: _change(one))


def _statement(node: ast.stmt, body: list[ast.stmt], place: Place, prefix: str) -> Iterator[Site]:
    """Yield the sites of a statement in a function: its own expressions and the statements below it."""
    if isinstance(node, FUNCTIONS):
        yield from _function(node, place, prefix)
        return
    if isinstance(node, ast.ClassDef) or _tells(node):
        return
    if isinstance(node, (ast.Assign, ast.AugAssign)) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ):
        yield Site("deleted statement", place, lambda: body.__setitem__(body.index(node), ast.Pass()))
    if isinstance(node, ast.Return) and node.value is not None and not _is_none(node.value):
        yield Site("return value", place, lambda: setattr(node, "value", ast.Constant(None)))
    for field, value in ast.iter_fields(node):
        if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
            for child in value:
                yield from _statement(child, value, place, prefix)
        elif not (field == "annotation" or (field == "value" and isinstance(node, ast.Expr) and _is_text(node))):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.expr):
                    yield from _expression(child, place)


def _expression(node: ast.expr, place: Place) -> Iterator[Site]:
    """Yield the sites of an expression, but not inside lambdas and comprehensions, which are functions themselves."""
    waiting: list[ast.AST] = [node]
    while waiting:
        one = waiting.pop()
        if isinstance(one, (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            continue
        waiting += ast.iter_child_nodes(one)
        if isinstance(one, (ast.BinOp, ast.BoolOp)) and type(one.op) in SWAPS:
            yield Site("operator", place, lambda one=one: setattr(one, "op", SWAPS[type(one.op)]()))
        elif isinstance(one, ast.Compare) and type(one.ops[0]) in SWAPS:
            yield Site("comparison", place, lambda one=one: one.ops.__setitem__(0, SWAPS[type(one.ops[0])]()))
        elif isinstance(one, ast.Constant):
            yield Site("constant", place, lambda one=one: _change(one))


def _change(node: ast.Constant) -> None:
    value = node.value
    if isinstance(value, bool) or value is None:
        node.value = not value
    elif isinstance(value, (int, float)):
        node.value = value + 1
    else:
        node.value = f"{value}x" if isinstance(value, str) else 0


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _tells(node: ast.stmt) -> bool:
    """Return whether a statement only prints a message."""
    text = ast.unparse(node)
    return bool(re.match(r"(\w+\.)*log(ger|ging)?\.\w+\(", text)) or (
        text.startswith("print(") and "file=sys.stderr" in text
    )


# edits that change nothing


def neutral(root: Path, name: str, path: str, random_: random.Random) -> dict[str, Mutation]:
    """Return edits of four kinds that do not change what the module does."""
    text = (root / path).read_text()
    texts = {kind: NEUTRAL[kind](text, random_) for kind in random_.sample(sorted(NEUTRAL), 4)}
    if "sys.stderr" in text or "log.info(" in text:
        texts["log text"] = _log_text(text, random_)  # few modules have any
    place = Place(name, path)
    return {kind: Mutation(kind, place, new) for kind, new in texts.items() if new is not None and new != text}


def _comment(text: str, random_: random.Random) -> str | None:
    ends = [
        token.start[0]
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.NEWLINE
    ]
    if not ends:
        return None
    lines = text.splitlines(keepends=True)
    number = random_.choice(ends) - 1
    lines[number] = lines[number].rstrip("\n") + "  # a word more\n"
    return "".join(lines)


def _docstring(text: str, random_: random.Random) -> str | None:
    tree = ast.parse(text)
    owners = [
        node
        for node in ast.walk(tree)
        if isinstance(node, (*FUNCTIONS, ast.ClassDef, ast.Module)) and node.body and _is_text(node.body[0])
    ]
    if not owners:
        return None
    random_.choice(owners).body[0] = ast.Expr(ast.Constant("Said in other words."))
    return ast.unparse(ast.fix_missing_locations(tree))


def _annotation(text: str, random_: random.Random) -> str | None:
    tree = ast.parse(text)
    owners = [node for node in ast.walk(tree) if isinstance(node, FUNCTIONS) and node.returns is not None]
    if not owners:
        return None
    node = random_.choice(owners)
    node.returns = random_.choice([None, ast.Name("object"), ast.Constant("Any")])
    for one in node.args.args:
        one.annotation = None
    return ast.unparse(ast.fix_missing_locations(tree))


def _log_text(text: str, _: random.Random) -> str | None:
    tree = ast.parse(text)
    calls = [node.value for node in ast.walk(tree) if isinstance(node, ast.Expr) and _tells(node)]
    for call in calls:
        assert isinstance(call, ast.Call)
        for argument in call.args:
            for piece in argument.values if isinstance(argument, ast.JoinedStr) else [argument]:
                if isinstance(piece, ast.Constant) and isinstance(piece.value, str):
                    piece.value += " indeed"
    return ast.unparse(ast.fix_missing_locations(tree)) if calls else None


def _rename(text: str, random_: random.Random) -> str | None:
    """Rename one local of one function that nothing but plain assignments, loops and `with` bind."""
    tree = ast.parse(text)
    choices: list[tuple[ast.AST, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS):
            inside = list(ast.walk(node))
            fixed = {one.arg for one in inside if isinstance(one, ast.arg)}
            fixed |= {name for one in inside if isinstance(one, (ast.Global, ast.Nonlocal)) for name in one.names}
            fixed |= {one.name for one in inside if isinstance(one, (*FUNCTIONS, ast.ClassDef))}
            fixed |= {one.asname or one.name for one in inside if isinstance(one, ast.alias)}
            fixed |= {one.name for one in inside if isinstance(one, ast.ExceptHandler) and one.name}
            stored = {one.id for one in inside if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}
            nested = any(isinstance(one, (*FUNCTIONS, ast.ClassDef)) for one in inside if one is not node)
            choices += [(node, name) for name in sorted(stored - fixed) if not nested]
    if not choices:
        return None
    owner, old = random_.choice(choices)
    for one in ast.walk(owner):
        if isinstance(one, ast.Name) and one.id == old:
            one.id = f"{old}_by_another_name"
    return ast.unparse(tree)


NEUTRAL: dict[str, Callable[[str, random.Random], str | None]] = {
    "comment": _comment,
    "docstring": _docstring,
    "formatting": lambda text, _: ast.unparse(ast.parse(text)),
    "blank lines": lambda text, _: text.replace("\n\n\n", "\n\n\n\n\n"),
    "annotation": _annotation,
    "log text": _log_text,
    "local rename": _rename,
    "added function": lambda text, _: f"{text}\n\ndef _added(x: int) -> int:\n    return x + 1\n",
    "added constant": lambda text, _: f"{text}\n\n_ADDED = 1\n",
}
