"""What counts as a change of code and what does not."""

import ast

import pytest

from engine.identity.normal_form import digest


def source_digest(source: str) -> str:
    return digest(ast.parse(source))


SOURCE = '''
"""A module."""
import os

LIMIT = 3  # why three


def f(x: int, *, y: str = "a") -> int:
    """Double."""
    if x > LIMIT:
        return x * 2
    return len(f"{y}!")
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# why three", "# because"),
        ('"""Double."""', '"""Twice x."""'),
        ('    """Double."""\n', ""),
        ('"""A module."""\n', ""),
        ("x * 2", "(x  *  2)"),
        ('y: str = "a"', "y: str = 'a'"),
    ],
)
def test_no_change(old: str, new: str) -> None:
    assert old in SOURCE
    assert source_digest(SOURCE) == source_digest(SOURCE.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [("LIMIT = 3", "LIMIT = 4"), ("x * 2", "x * 3"), ("*, y", "y"), ('"a"', '"b"'), ("x >", "x >="), ("!", "?")],
)
def test_change(old: str, new: str) -> None:
    assert old in SOURCE
    assert source_digest(SOURCE) != source_digest(SOURCE.replace(old, new))


def test_golden() -> None:
    """Held fixed, so that an edit of the normal form, or another Python, cannot pass unseen."""
    assert source_digest(SOURCE) == "50226948de750b7f7d045ffa2e865a55"
