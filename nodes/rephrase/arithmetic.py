"""Numbers as the gate reads them: bare numbers, expressions, and equations, which are true or false."""

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
    """The numeric content of a text, without spaces and thousands commas.

    `numbers` are bare; `expressions` join several with operators ("2020-25" too); `equations` are "left=right";
    `sides` are the expressions that are a side of an equation.
    """

    numbers: Counter[str]
    expressions: Counter[str]
    equations: Counter[str]
    sides: frozenset[str]


def facts_of(text: str) -> Facts:
    """Extract the facts of a text; an equation's numbers count only as part of the equation."""
    equations: Counter[str] = Counter()
    sides: set[str] = set()
    for match in _EQUATION.finditer(text):
        left, right = _normal(match[1]), _normal(match[2])
        equations[f"{left}={right}"] += 1
        sides |= {left, right}
    rest = [_normal(match[0]) for match in _CHAIN.finditer(_EQUATION.sub(" ; ", text))]
    return Facts(
        Counter(item for item in rest if _is_number(item)),
        Counter(item for item in rest if not _is_number(item)),
        equations,
        frozenset(sides),
    )


def _normal(expression: str) -> str:
    return expression.replace(" ", "").replace(",", "").replace("×", "*").replace("÷", "/")


def _is_number(expression: str) -> bool:
    return re.fullmatch(r"-?\d[\d.]*", expression) is not None


def invented_equations(original: Facts, revision: Facts) -> Iterator[str]:
    """Yield a problem for each equation that is not in the original, unless it is true and derived from its numbers.

    A learning note may spell out the steps between a question and its answer, but may not change either.
    """
    available = _numbers_in(original)
    pending = sorted((revision.equations - original.equations).elements())
    while True:
        usable = [
            equation for equation in pending if _numbers_of(equation.split("=")[0]) <= available and is_true(equation)
        ]
        if not usable:
            break
        for equation in usable:
            pending.remove(equation)
            available |= _numbers_of(equation.split("=")[1])
    for equation in pending:
        yield f"equation_invented: {equation}" if is_true(equation) else f"equation_false: {equation}"


def _numbers_in(facts: Facts) -> set[str]:
    numbers = set(facts.numbers)
    for item in (*facts.expressions, *facts.equations):
        numbers |= _numbers_of(item)
    return numbers


def _numbers_of(expression: str) -> set[str]:
    """Return the numbers of an expression or equation, with and without their leading sign."""
    numbers = {match[1] for match in _SPLIT.finditer(expression) if match[1]}
    return numbers | {number.lstrip("-") for number in numbers}


def is_true(equation: str) -> bool:
    """Return whether both sides of "left=right" have the same value."""
    left, right = (value(side) for side in equation.split("=", 1))
    return left is not None and left == right


def value(expression: str) -> Fraction | None:
    """Return the exact value of numbers joined by + - * / (products first); None if it has none."""
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
