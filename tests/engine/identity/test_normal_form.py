"""What counts as a change of code and what does not."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine.identity.normal_form import digest, normal_form

ROOT = Path(__file__).resolve().parents[3]


def source_digest(source: str) -> str:
    return digest(ast.parse(source))


SOURCE = '''
"""A module."""
import os
import sys
from dataclasses import dataclass

LIMIT = 3  # why three


@dataclass(frozen=True)
class Point:
    """A point."""

    x: int = 1
    "across"


def f(x: int, *, y: str = "a", keep=None) -> int:
    """Double."""
    if x > LIMIT:
        return x * 2
    total: int = 0
    for one, other in [(1, 2), (3, 4)]:
        total += one - other
    found = [item for item in range(total) if item]
    try:
        import json as reader
    except OSError as error:
        print(f"failed {error} at {total:>3}", "see", file=sys.stderr)
        raise ValueError("a sentence") from error

    def inner(scale):
        nonlocal total
        total = total + scale
        return lambda part: part + total

    journal.log.info(f"at {total}")
    logger.info("done %s", found)
    print("to standard output")
    return len(f"{y}!{found=}") + inner(2)(reader)
'''

SAME = [
    ("# why three", "# because"),
    ('"""Double."""', '"""Twice x."""'),
    ('    """Double."""\n', ""),
    ('"""A module."""\n', ""),
    ('    "across"\n', '    "along"\n'),
    ("x * 2", "(x  *  2)"),
    ('y: str = "a"', "y: str = 'a'"),
    ("x: int, *", "x: float, *"),
    (") -> int:", ") -> 'float':"),
    ("total: int = 0", "total = 0"),
    ("total", "sum_of_all"),
    (
        "one, other in [(1, 2), (3, 4)]:\n        total += one - other",
        "a, b in [(1, 2), (3, 4)]:\n        total += a - b",
    ),
    ("item for item in range(total) if item", "one for one in range(total) if one"),
    ('"failed {error} at', '"it broke: {error}, at'),
    ('"see"', '"look"'),
    ('as error:\n        print(f"failed {error} ', 'as error:\n        print(f"no {error} '),
    ('f"at {total}"', 'f"now at {total} of many"'),
    ('"done %s"', '"finished: %s"'),
]

DIFFERENT = [
    ("LIMIT = 3", "LIMIT = 4"),
    ("x * 2", "x * 3"),
    ("*, y", "y"),
    ('"a"', '"b"'),
    ("x >", "x >="),
    ("!{", "?{"),
    ("found=", "found"),
    ("x: int = 1", "x: float = 1"),
    ("x: int = 1", "x: int = 2"),
    ("frozen=True", "frozen=False"),
    ("one - other", "other - one"),
    ("if item", "if not item"),
    ('"a sentence"', '"another sentence"'),
    ("{error} at", "{x} at"),
    ("at {total:>3}", "at {total:>4}"),
    ('print("to', 'print("onto'),
    ("file=sys.stderr", "file=sys.stdout"),
    ("inner(scale)", "inner(ratio)"),
    ("part + total", "part - total"),
    ("keep=None", "keep=0"),
    ("nonlocal total", "pass"),
    ("json as reader", "pickle as reader"),
    ("def inner(scale):\n", "def inner(scale=1):\n"),
]


@pytest.mark.parametrize(("old", "new"), SAME)
def test_no_change(old: str, new: str) -> None:
    assert old in SOURCE
    assert source_digest(SOURCE) == source_digest(SOURCE.replace(old, new))


@pytest.mark.parametrize(("old", "new"), DIFFERENT)
def test_change(old: str, new: str) -> None:
    assert old in SOURCE
    assert source_digest(SOURCE) != source_digest(SOURCE.replace(old, new))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("def f(a):\n    b = 1\n    return a + b", "def f(b):\n    a = 1\n    return b + a"),  # a parameter's name
        ("def f():\n    x = 1\n    return x + y", "def f():\n    y = 1\n    return y + y"),  # a global becomes a local
        ("def f():\n    x = 1\n    return locals()", "def f():\n    y = 1\n    return locals()"),
        ("def f():\n    x = 1\n    def x2():\n        pass", "def f():\n    x = 1\n    def x3():\n        pass"),
        ("def f():\n    global x\n    x = 1", "def f():\n    global y\n    y = 1"),
        ("class A:\n    x = 1", "class A:\n    y = 1"),
        ("def f():\n    class A:\n        x = 1\n    return A", "def f():\n    class A:\n        y = 1\n    return A"),
        ("def f():\n    return [x for x in y]", "def f():\n    return [y for x in y]"),
        ("def f():\n    x = [1]\n    return [x for x in x]", "def f():\n    x = [1]\n    return [y for x in x]"),
        ("def f():\n    x = 1\n    def g():\n        x = 2\n    return x",
         "def f():\n    x = 1\n    def g():\n        nonlocal x\n        x = 2\n    return x"),
        ("def f(*, a):\n    pass", "def f(*, a=...):\n    pass"),
        ("@register\ndef f(x: int):\n    pass", "@register\ndef f(x: str):\n    pass"),
        ("def f():\n    print('a')", "def f():\n    print('b')"),
        ("def f():\n    return log.info('a')", "def f():\n    return log.info('b')"),
        ("def f(a):\n    match a:\n        case [x, *y]:\n            return x",
         "def f(a):\n    match a:\n        case [x, *y]:\n            return y"),
        ("def f():\n    x: int\n    return x", "def f():\n    return x"),
    ],
)  # fmt: skip
def test_what_a_scope_makes_different(one: str, other: str) -> None:
    assert source_digest(one) != source_digest(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("def f(a):\n    match a:\n        case {'k': x, **r}:\n            return x, r",
         "def f(a):\n    match a:\n        case {'k': y, **s}:\n            return y, s"),
        ("def f():\n    return [b for a in c if (b := a)]", "def f():\n    return [z for y in c if (z := y)]"),
        ("def f():\n    x = 1\n    class A:\n        def g(self):\n            return x",
         "def f():\n    y = 1\n    class A:\n        def g(self):\n            return y"),
        ("async def f():\n    async with a as b:\n        return b",
         "async def f():\n    async with a as c:\n        return c"),
    ],
)  # fmt: skip
def test_renamed_locals_of_every_kind_are_the_same(one: str, other: str) -> None:
    assert source_digest(one) == source_digest(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("X: int = 1", "X = 1"),
        ("X: int = 1", "X: 'Final[str]' = 1"),
        ("X: dict[str, a.B] | None = {}", "X: Callable[[int], str] = {}"),
        ("if a:\n    X: int = 1", "if a:\n    X = 1"),
        ("def f(a: int, /, *b: c.d, e: 'str' = 1, **f: g) -> int:\n    pass", "def f(a, /, *b, e=1, **f):\n    pass"),
        ("class A:\n    def f(self, a: int) -> str:\n        self.x: int = a",
         "class A:\n    def f(self, a):\n        self.x: str = a"),
    ],
)  # fmt: skip
def test_annotations_of_functions_and_modules_are_no_change(one: str, other: str) -> None:
    assert source_digest(one) == source_digest(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *(
            (f"{head}\n    x: int = 1", f"{head}\n    x: str = 1")
            for head in (
                *("class A:", "class A(BaseModel):", "class A(TypedDict):", "class A(NamedTuple):"),
                *("@dataclass\nclass A:", "if a:\n  class A:", "def f():\n  class A:"),
            )
        ),
        ("X: int", "X = int"),
        ("X: int", "Y: int"),
        ("X: register(1) = 2", "X = 2"),
        ("X: register(1) = 2", "X: register(3) = 2"),
        ("X: (y := int) = 2", "X: int = 2"),
        ("def f(a: register(1)):\n    pass", "def f(a):\n    pass"),
    ],
)
def test_annotations_that_make_a_field_or_act_are_a_change(one: str, other: str) -> None:
    assert source_digest(one) != source_digest(other)


def test_annotations_name_what_their_strings_stand_for_apart() -> None:
    form = normal_form(
        ast.parse("X: 'a.b | None' = c\ndef f(x: 'list[d]', y: Literal['two words']) -> e: pass").body, "p"
    )
    assert form.annotation_uses == {":a.b", ":list", ":d", ":Literal", ":e"}
    assert form.uses == {":X", ":c"}
    assert form.strings == set()


def test_uses_are_globals_only() -> None:
    source = (
        "def f(a, b=outer.c.d):\n    import x.y as z\n    from . import w\n    e = a.g\n"
        "    return [h.i for h in z.j(e, w)] + k()\n"
    )
    form = normal_form(ast.parse(source).body, "p.q")
    assert form.uses == {":outer.c.d", "x.y.j", "p.q.w", ":k"}
    assert form.imports == {"x.y", "p.q", "p.q.w"}


GOLDEN = "22079d3495dbe2905c7df41ea4c89c47"
GOLDEN_UNICODE = "0573c2a1e5eb3ed11ba3d9c25c282198"
UNICODE = 'x = "\\u00e4\\U0001fae8 \\ud800"\ny = b"\\xff"\nz = 1e100 + 2j\nw = f"{a!r:>{b}}" f"{{{c}}}"\n'
SCRIPT = "import ast, sys; from engine.identity.normal_form import digest; print(digest(ast.parse(sys.stdin.read())))"


def interpreters() -> list[str]:
    """Every Python from 3.11 on at hand, this one first."""
    homes = sorted(Path.home().glob(".pyenv/versions/3.*/bin/python3"))
    names = [
        sys.executable,
        *map(str, homes),
        *(python for n in range(11, 20) if (python := shutil.which(f"python3.{n}"))),
    ]
    script = "import sys; sys.exit(sys.version_info < (3, 11))"
    return [name for name in dict.fromkeys(names) if subprocess.run([name, "-c", script], check=False).returncode == 0]


@pytest.mark.parametrize("python", interpreters())
@pytest.mark.parametrize(("source", "golden"), [(SOURCE, GOLDEN), (UNICODE, GOLDEN_UNICODE)])
def test_golden(python: str, source: str, golden: str) -> None:
    """Held fixed, so that an edit of the normal form, or another Python, cannot pass unseen."""
    done = subprocess.run(
        [python, "-c", SCRIPT], input=source, cwd=ROOT, capture_output=True, text=True, check=True, env={}
    )
    assert done.stdout.strip() == golden


@pytest.mark.parametrize("python", interpreters()[1:])
def test_every_python_gives_this_repository_the_same_definitions(python: str) -> None:
    script = (
        "from pathlib import Path; from engine.identity.library import Library; from engine.artifacts.files import *;"
        "names = sorted(str(p)[:-3].replace('/', '.').removesuffix('.__init__')"
        " for top in ('engine/model', 'nodes/rl', 'engine/toolworld') for p in Path(top).rglob('*.py'));"
        "print(digest_bytes(repr([Library(Path('.')).module(n).as_dict() for n in names]).encode()))"
    )
    outputs = [
        subprocess.run([one, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, env={}).stdout
        for one in (sys.executable, python)
    ]
    assert outputs[0] == outputs[1]
