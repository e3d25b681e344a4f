"""Rewrite mathematics as learning notes (arXiv 2507.20534 section 2.2, after SwallowMath): the steps spelt out."""

import re

from nodes.rephrase.pieces import Piece, choose
from nodes.rephrase.words import word_set

_ASKS = (
    (re.compile(r"^Find the Greatest Common Divisor \(GCD\) of these numbers: (\d+), (\d+)\.?$"),
     "We look for the greatest common divisor (GCD) of the numbers {0} and {1}."),
    (re.compile(r"^Find the Least Common Multiple \(LCM\) of these numbers: (\d+), (\d+)\.?$"),
     "We look for the least common multiple (LCM) of the numbers {0} and {1}."),
    (re.compile(r"^Find the prime factorization of (\d+)\.?$"), "Take {0} apart: what is its prime factorization?"),
    (re.compile(r"^(?:Solve the following multiplication|Calculate the following): (.+?)\.?$"),
     "The multiplication to solve is {0}."),
    (re.compile(r"^Simplify the fraction (.+?) to its lowest terms\.?$"),
     "The fraction {0} is to be simplified to lowest terms."),
    (re.compile(r"^(?:Solve for|Find the value of) (\w+)(?::| in the equation:) (.+)$"),
     "In the equation {1}, the unknown to solve for is {0}; we want its value."),
    (re.compile(r"^How many legs are there in total if you have (.+)\?$"),
     "Count the legs, in total, of {0}."),
    (re.compile(r"^(.+), \?$"), "How does the sequence {0} go on?"),
)  # fmt: skip
_IDEAS = (
    ("Greatest Common Divisor", "Idea: divide, keep the remainder, and divide again until it is zero."),
    ("Least Common Multiple", "Idea: the product of both numbers, divided by their common divisor."),
    ("prime factorization", "Idea: divide by small prime factors as long as it goes."),
    ("multiplication", "Idea: multiply digit by digit, then add up."),
    ("fraction", "Idea: divide both parts by their common divisor."),
    ("equation", "Idea: put the value in and see whether both sides agree."),
    ("legs", "Idea: multiply each count by the legs of that animal, then add up."),
)
_GIVEN = ("Given", "What we know", "The problem")
# What the ideas and questions may say about the method beyond the problem's own words.
METHOD_WORDS = word_set(
    """divide divided remainder again zero product common divisor small prime factors long multiply digit agree
    sides parts count animal sequence equation unknown solve fraction simplified lowest terms apart
    multiplication"""
)
_FIRST = ("First", "Start with", "To begin")
_NEXT = ("Then", "Next", "And then")
_LAST = ("Finally", "Lastly", "Last step")
_ANSWERS = ("So the answer is {}.", "Answer found: {}.", "The result is {}.", "Hence the answer: {}.")
_TOGETHER = ("Put together", "In short", "So")
_SUM_LEADS = ("To work out {}, go from left to right.", "Take {} step by step.", "How much is {}? Start on the left.")


def problem_note(text: str, piece: Piece, with_idea: bool) -> str:
    """Return a worked problem ("Problem: ... Solution: ... Answer: ...") as a note: perhaps an idea, steps, result."""
    question, _, rest = text.removeprefix("Problem: ").partition("\nSolution:\n")
    steps, _, answer = rest.rpartition("Answer: ")
    lines = [_question_line(question, piece)]
    if with_idea:
        lines += [idea for word, idea in _IDEAS if word in question][:1]
    lines += _steps([step for step in steps.split("\n") if step.strip()], f"{piece.key}:{question}")
    lines.append(choose(_ANSWERS, piece.key, question, "answer").format(answer.strip()))
    return "\n".join(lines)


def _question_line(question: str, piece: Piece) -> str:
    for pattern, sentence in _ASKS:
        match = pattern.match(question)
        if match:
            return sentence.format(*match.groups())
    *given, request = re.split(r"(?<=[.?!]) (?=[A-Z])", question)
    if not given:
        return f"Asked: {question}"
    return f"Asked: {request}\n{choose(_GIVEN, piece.key, question)}: {' '.join(given)}"


def _steps(steps: list[str], key: str) -> list[str]:
    """Return the steps, each with a word that leads to it, such as "First" or "Then"."""
    lines = []
    for at, step in enumerate(steps):
        leads = _FIRST if at == 0 else _LAST if at == len(steps) - 1 and at > 1 else _NEXT
        lines.append(f"{choose(leads, key, at)}: {step}" if len(steps) > 1 else f"Step: {step}")
    return lines


def sum_note(line: str, piece: Piece) -> str:
    """Return a sum, with or without its steps, worked from left to right in words."""
    expression, steps, answer = _parts(line)
    key = f"{piece.key}:{line}"
    if ":" in line:
        joined = _joined(steps)
        return f"{choose(_SUM_LEADS, key).format(expression)} {joined} {choose(_ANSWERS, key, 'answer').format(answer)}"
    return f"{_joined(steps)} {choose(_TOGETHER, key)}: {line}."


def _parts(line: str) -> tuple[str, list[str], str]:
    """Return expression, steps and answer of a sum in any of the corpus's three forms."""
    if ":" in line:
        expression, _, rest = line.partition(": ")
        worked, _, answer = rest.partition(". Answer: ")
        return expression, worked.split("; "), answer
    expression, _, answer = (part.strip() for part in line.partition("="))
    return expression, _from_left(expression), answer


def _from_left(expression: str) -> list[str]:
    """Return the steps of a sum, two numbers at a time."""
    numbers, signs = re.findall(r"\d+", expression), re.findall(r"[+\-]", expression)
    steps, total = [], int(numbers[0])
    for sign, number in zip(signs, numbers[1:]):
        after = total + int(number) if sign == "+" else total - int(number)
        steps.append(f"{total} {sign} {number} = {after}")
        total = after
    return steps


def _joined(steps: list[str]) -> str:
    return f"{steps[0]}." if len(steps) == 1 else f"First {', then '.join(steps)}."
