"""The fidelity gate: a rewrite that lost, changed or invented something is refused, with the reason.

K2 compares rewrite and source for semantic alignment as its first quality gate (arXiv 2507.20534, section 2.2). An
embedding does not see a wrong date (cosine 0.982 against 0.985 for a faithful rewrite, measured here), so facts are
compared one by one: numbers, expressions and equations; names; negations and words of direction; and the share of
content words kept and added. A number must also keep its company: one of its neighbouring words.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from nodes.rephrase.arithmetic import Facts, facts_of, invented_equations
from nodes.rephrase.schema import GateLimits
from nodes.rephrase.words import (
    FRAMING_WORDS,
    FUNCTION_WORDS,
    NEGATIONS,
    POLAR_WORDS,
    carries_meaning,
    concept,
    sentences,
    words,
)

_SPELT = frozenset(
    """two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
    nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred hundreds thousand thousands million millions
    billion billions trillion dozen half quarter third fourth fifth sixth seventh eighth ninth tenth twice thrice""".split()
)
_TOKEN = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d[\d,]*(?:\.\d+)?")
_LEAD = re.compile(r"^[\s\-*•>\"'(\[]*(?:[QA]: )?[\s\"'(\[]*")


def judge(source: str, rewrite: str, limits: GateLimits, title: str = "") -> list[str]:
    """Reasons to refuse `rewrite` of `source`, empty if it is faithful; `title` counts as part of the source."""
    known, told = _read(source), _read(rewrite)
    reasons = [
        *_numbers(known, told),
        *_names(source, rewrite, title),
        *_same_counts("negation", known.negations, told.negations),
        *_same_counts("direction", known.polar, told.polar),
        *_content(known, told, limits, title),
        *_form(source, rewrite, limits),
    ]
    return reasons or _company(source, rewrite)


@dataclass(frozen=True)
class _Reading:
    """What the gate sees of a text."""

    facts: Facts
    spelt: Counter[str]
    negations: Counter[str]
    polar: Counter[str]
    concepts: Counter[str]


def _read(text: str) -> _Reading:
    low = [word.lower() for word in words(text)]
    parts = [part for word in low for part in word.split("-")]
    return _Reading(
        facts_of(text),
        Counter(part for part in parts if part in _SPELT),
        Counter("not" for word in low if word in NEGATIONS or word.endswith(("n't", "n’t"))),
        Counter(part for part in parts if part in POLAR_WORDS),
        Counter(concept(word) for word in low if carries_meaning(word)),
    )


def _numbers(known: _Reading, told: _Reading) -> Iterator[str]:
    """Every number, expression and equation of the source is there as often; anything else is a true equation."""
    for kind in ("numbers", "expressions"):
        have, want = getattr(told.facts, kind), getattr(known.facts, kind)
        yield from (f"number_lost: {one}" for one in sorted((want - have)))
        extra = have - want
        if kind == "expressions":
            extra = Counter({one: n for one, n in extra.items() if one not in told.facts.sides})
        yield from (f"number_invented: {one}" for one in sorted(extra))
    yield from (f"equation_lost: {one}" for one in sorted(known.facts.equations - told.facts.equations))
    yield from invented_equations(known.facts, told.facts)
    yield from (f"number_lost: {one}" for one in sorted(known.spelt - told.spelt))
    yield from (f"number_invented: {one}" for one in sorted(told.spelt - known.spelt))


def _same_counts(what: str, known: Counter[str], told: Counter[str]) -> Iterator[str]:
    for one in sorted((known - told) + (told - known)):
        yield f"{what}_changed: {one} {known[one]} to {told[one]} times"


def names(text: str) -> set[str]:
    """Capitalised words that do not owe their capital to the start of a sentence."""
    found = set()
    for sentence in sentences(text):
        body = sentence[_LEAD.match(sentence).end() :]  # type: ignore[union-attr]
        for match in _TOKEN.finditer(body):
            word = match[0]
            starts = match.start() == 0 or body[: match.start()].rstrip().endswith((":", "."))
            if word[0].isupper() and (not starts or word[1:2].isupper()):
                found.add(word.replace("’", "'").removesuffix("'s"))
    return found - {"I"}


def _capitalised(text: str) -> set[str]:
    return {word.replace("’", "'").removesuffix("'s") for word in _TOKEN.findall(text) if word[0].isupper()}


def _names(source: str, rewrite: str, title: str) -> Iterator[str]:
    have = _capitalised(rewrite)
    yield from (f"name_lost: {name}" for name in sorted(names(source) - have))
    allowed = _capitalised(source) | _capitalised(title)
    yield from (f"name_invented: {name}" for name in sorted(names(rewrite) - allowed))
    low = {word.lower() for word in _TOKEN.findall(f"{title} {source}")}
    for word in sorted(have - allowed - names(rewrite)):
        plain = word.lower()
        is_known = plain in low or plain in FUNCTION_WORDS or plain in FRAMING_WORDS or concept(plain) in map(concept, low)
        if not is_known and plain not in NEGATIONS and plain not in _SPELT and carries_meaning(plain):
            yield f"word_invented: {word}"


def _content(known: _Reading, told: _Reading, limits: GateLimits, title: str) -> Iterator[str]:
    want, have = set(known.concepts), set(told.concepts)
    lost = sorted(want - have)
    if len(lost) > limits.max_lost_words * max(len(want), 1):
        yield f"content_lost: {len(lost)} of {len(want)} words, such as {', '.join(lost[:3])}"
    added = sorted(have - want - {concept(word) for word in words(title)})
    if len(added) > limits.max_new_words * max(len(have), 1):
        yield f"content_invented: {len(added)} of {len(have)} words, such as {', '.join(added[:3])}"


def _form(source: str, rewrite: str, limits: GateLimits) -> Iterator[str]:
    ratio = len(rewrite) / max(len(source), 1)
    if not limits.min_length_ratio <= ratio <= limits.max_length_ratio:
        yield f"length: {ratio:.2f} times the source"
    said = sentences(rewrite)
    repeated = [one for one, n in Counter(one for one in said if len(one) > 40).items() if n > source.count(one) + 1]
    if repeated:
        yield f"repetition: {repeated[0][:60]}"
    original = _runs(source)
    shared = len(original & _runs(rewrite)) / max(len(_runs(rewrite)), 1)
    if shared > limits.max_copied:
        yield f"copy: {shared:.0%} of the word runs are the source's"


def _runs(text: str, n: int = 5) -> set[tuple[str, ...]]:
    tokens = [token.lower() for token in _TOKEN.findall(text)]
    return {tuple(tokens[i : i + n]) for i in range(max(len(tokens) - n + 1, 1))}


def _company(source: str, rewrite: str) -> list[str]:
    """Numbers whose neighbours in the rewrite are none of those in the source: attached to another fact."""
    before, after = _neighbours(source, 2), _neighbours(rewrite, 6)
    return [
        f"number_moved: {number} stood beside {', '.join(sorted(min(companies, key=sorted)))}"
        for number, companies in sorted(before.items())
        if all(companies) and not all(any(company & other for other in after.get(number, [])) for company in companies)
    ]


def _neighbours(text: str, reach: int) -> dict[str, list[set[str]]]:
    """For each number, at each place it stands, the nearest `reach` content words of its sentence on either side."""
    found: dict[str, list[set[str]]] = {}
    for sentence in sentences(text):
        tokens = _TOKEN.findall(sentence)
        content = [(at, concept(token)) for at, token in enumerate(tokens) if not token[0].isdigit() and carries_meaning(token)]
        for at, token in enumerate(tokens):
            if token[0].isdigit():
                left = [word for where, word in content if where < at][-reach:]
                right = [word for where, word in content if where > at][:reach]
                found.setdefault(token.replace(",", ""), []).append({*left, *right})
    return found
