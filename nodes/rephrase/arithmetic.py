"""Numbers as the gate reads them: bare ones, expressions, and equations, which are true or not."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

_NUMBER = r"(?:(?<![\w.])-)?\d[\d,]*(?:\.\d+)?"
_OPERATOR = r"[ ]?(?:[+\-*/×÷^]|\*\*)[ ]?"
_EXPRESSION = rf"{_NUMBER}(?:{_OPERATOR}{_NUMBER})*"
_EQUATION = re.compile(rf"({_EXPRESSION}) ?= ?({_EXPRESSION})(?![\d.]*\d)")
_CHAIN = re.compile(_EXPRESSION)
_SPLIT = re.compile(rf"({_NUMBER})|([+\-*/×÷])")


@dataclass(frozen=True)
class Facts:
    """The numeric content of a text, spaces and thousands commas left out.

    `numbers` are bare; `expressions` join several with operators ("2020-25" too); `equations` are "left=right";
    `sides` are the expressions that are a side of an equation.
    """

    numbers: Counter[str]
    expressions: Counter[str]
    equations: Counter[str]
    sides: frozenset[str]


def facts_of(text: str) -> Facts:
    """Read a text; an equation's numbers count only as part of it."""
    equations: Counter[str] = Counter()
    sides: set[str] = set()
    for match in _EQUATION.finditer(text):
        left, right = _normal(match[1]), _normal(match[2])
        equations[f"{left}={right}"] += 1
        sides |= {left, right}
    rest = [_normal(match[0]) for match in _CHAIN.finditer(_EQUATION.sub(" ; ", text))]
    return Facts(
        Counter(one for one in rest if _is_number(one)),
        Counter(one for one in rest if not _is_number(one)),
        equations,
        frozenset(sides),
    )


def _normal(expression: str) -> str:
    return expression.replace(" ", "").replace(",", "").replace("×", "*").replace("÷", "/")


def _is_number(expression: str) -> bool:
    return re.fullmatch(r"-?\d[\d.]*", expression) is not None


def invented_equations(known: Facts, told: Facts) -> Iterator[str]:
    """Equations the source has not: allowed only if they are true, and built from its numbers and their results.

    So a learning note may spell out the steps between a question and its answer, and may not change either.
    """
    at_hand = _numbers_in(known)
    pending = sorted((told.equations - known.equations).elements())
    while True:
        usable = [one for one in pending if _numbers_of(one.split("=")[0]) <= at_hand and is_true(one)]
        if not usable:
            break
        for one in usable:
            pending.remove(one)
            at_hand |= _numbers_of(one.split("=")[1])
    for one in pending:
        yield f"equation_invented: {one}" if is_true(one) else f"equation_false: {one}"


def _numbers_in(facts: Facts) -> set[str]:
    found = set(facts.numbers)
    for one in (*facts.expressions, *facts.equations):
        found |= _numbers_of(one)
    return found


def _numbers_of(expression: str) -> set[str]:
    """The numbers of an expression or equation, with and without the sign in front."""
    found = {match[1] for match in _SPLIT.finditer(expression) if match[1]}
    return found | {one.lstrip("-") for one in found}


def is_true(equation: str) -> bool:
    """Whether both sides of "left=right" have the same value."""
    left, right = (value(side) for side in equation.split("=", 1))
    return left is not None and left == right


def value(expression: str) -> Fraction | None:
    """Value of numbers joined by + - * / (products first), exactly; None if it has none."""
    tokens = [(match[1], match[2]) for match in _SPLIT.finditer(_normal(expression))]
    total, product, sign, operator = Fraction(0), None, 1, ""
    for number, symbol in tokens:
        if number:
            term = Fraction(number)
            if product is None:
                product = term
            elif operator == "*":
                product *= term
            elif operator == "/" and term:
                product /= term
            else:
                return None
        elif symbol in "+-" and product is not None:
            total, product, sign = total + sign * product, None, 1 if symbol == "+" else -1
        else:
            operator = symbol
    return None if product is None else total + sign * product
