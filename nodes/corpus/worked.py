"""Worked solutions of reasoning-gym problems: steps that can be written and checked from an entry's metadata.

reasoning-gym gives questions and answers; a language model learns more from the steps between them (the paper's
learning notes, section 2.2). Each function returns the solution's lines without the final answer.
"""

import re
from collections.abc import Callable
from math import gcd
from typing import Any

Entry = dict[str, Any]

_TEST_TAKING = re.compile(r"\s*(?:Give only|Give the result|Do not include|Write the factors)[^.]*?(?:\.|\)|$)")
_FRACTION = re.compile(r"\$?\\d?frac\{(-?\d+)\}\{(-?\d+)\}\$?|\$(-?\d+/-?\d+)\$")
_FINAL = re.compile(r"####.*", re.DOTALL)


def question_of(entry: Entry) -> str:
    """Return the problem's question, without instructions about how to format the answer."""
    question = entry["question"].strip()
    question = re.sub(r"^Your task is to [^\n]*\n+", "", question)
    question = re.sub(r"If the target base is > 10[^\n]*\n+", "", question)
    question = re.sub(r"(?:^|\n)Now, (\w)", lambda match: match[1].upper(), question).strip()
    question = _TEST_TAKING.sub("", question).replace("\n", " ")
    return _FRACTION.sub(_plain_fraction, question).strip()


def answer_of(entry: Entry) -> str:
    """Return the true answer, with fractions written plainly."""
    return _FRACTION.sub(_plain_fraction, str(entry["answer"]).strip())


def _plain_fraction(match: re.Match[str]) -> str:
    return match[3] or f"{match[1]}/{match[2]}"


def euclid(entry: Entry) -> list[str]:
    """Return the greatest common divisor by Euclid's algorithm, one division per line."""
    numbers = entry["metadata"]["numbers"]
    return _euclid(int(numbers[0]), int(numbers[1]))


def _euclid(a: int, b: int) -> list[str]:
    a, b = max(a, b), min(a, b)
    lines = []
    while b:
        lines.append(f"{a} = {a // b} × {b} + {a % b}")
        a, b = b, a % b
    return [*lines, f"The last remainder above zero is {a}."]


def least_multiple(entry: Entry) -> list[str]:
    """Return the least common multiple, computed from the greatest common divisor."""
    a, b = (int(number) for number in entry["metadata"]["numbers"][:2])
    return [*_euclid(a, b), f"{a} × {b} = {a * b}", f"{a * b} / {gcd(a, b)} = {a * b // gcd(a, b)}"]


def factors(entry: Entry) -> list[str]:
    """Return repeated division by the smallest prime factor."""
    number = int(entry["metadata"]["number"])
    lines = []
    for factor in entry["metadata"]["factors"][:-1]:
        lines.append(f"{number} / {factor} = {number // int(factor)}")
        number //= int(factor)
    return [*lines, f"{number} is prime."]


def partial_products(entry: Entry) -> list[str]:
    """Return a long multiplication: one partial product per digit of the second number, then their sum."""
    a, b = (int(number) for number in entry["metadata"]["expression"].split("*"))
    digits = str(b)
    parts = [int(digit) * 10 ** (len(digits) - 1 - i) for i, digit in enumerate(digits) if digit != "0"]
    lines = [f"{a} × {part} = {a * part}" for part in parts]
    if not parts:
        lines = [f"{a} × {b} = 0"]
    elif len(parts) > 1:
        lines.append(f"{' + '.join(str(a * part) for part in parts)} = {a * b}")
    return lines


def reduced(entry: Entry) -> list[str]:
    """Return a fraction divided by the greatest common divisor."""
    meta = entry["metadata"]
    a, b, by = int(meta["numerator"]), int(meta["denominator"]), int(meta["reduction_factor"])
    return [*_euclid(a, b), f"{a} / {by} = {a // by}", f"{b} / {by} = {b // by}"]


def substituted(entry: Entry) -> list[str]:
    """Return the check of a solution by putting it into the equation."""
    meta, value = entry["metadata"], str(entry["answer"])
    put = re.sub(rf"\b{re.escape(meta['variable'])}\b", value, meta["equation"]).replace("*", " × ")
    return [f"Try {meta['variable']} = {value}.", put]


def chain_of_thought(entry: Entry) -> list[str]:
    """Return the worked answer that comes with reasoning-gym's word problems."""
    text = _FINAL.sub("", entry["metadata"]["answer_cot"])
    return [line.strip() for line in text.split("\n") if line.strip()]


def legs(entry: Entry) -> list[str]:
    """Return the legs of each kind of animal, then the sum."""
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    animals = entry["metadata"]["animals"]
    parts = [count * ANIMALS[name] for name, count in animals.items()]
    lines = [f"{name}: {count} × {ANIMALS[name]} = {count * ANIMALS[name]}" for name, count in animals.items()]
    return [*lines, f"{' + '.join(map(str, parts))} = {sum(parts)}"]


def rule(entry: Entry) -> list[str]:
    """Return the rule behind a number sequence."""
    return [f"Rule: {entry['metadata']['rule']}."]


SOLUTIONS: dict[str, tuple[str, Callable[[Entry], list[str]]]] = {
    "gcd": ("Greatest common divisor", euclid),
    "lcm": ("Least common multiple", least_multiple),
    "prime_factorization": ("Prime factorization", factors),
    "products": ("Multiplication", partial_products),
    "fraction_simplification": ("Simplifying fractions", reduced),
    "simple_equations": ("Linear equations", substituted),
    "gsm_symbolic": ("Word problems", chain_of_thought),
    "leg_counting": ("Counting legs", legs),
    "number_sequence": ("Number sequences", rule),
}
"""reasoning-gym generator → title of its documents, and the function that works out a problem."""
