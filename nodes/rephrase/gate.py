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
from functools import cached_property, lru_cache

from nodes.rephrase.arithmetic import Facts, facts_of, invented_equations
from nodes.rephrase.schema import GateLimits
from nodes.rephrase.words import (
    FRAMING_WORDS,
    FUNCTION_WORDS,
    NEGATIONS,
    POLAR_WORDS,
    SPELT_NUMBERS,
    carries_meaning,
    concept,
    is_told,
    sentences,
    stem,
    words,
)

_POLAR_STEMS = frozenset(map(stem, POLAR_WORDS))
_TOKEN = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d[\d,]*(?:\.\d+)?")
_LEAD = re.compile(r"[\s\-*•>\"'(\[]*(?:[QA]: )?[\s\"'(\[]*")
_ANSWER = re.compile(r"\?\s*\nA: ")
_OWN_REACH, _OTHER_REACH = 2, 9  # neighbours that a number has, and within which one of them must stay
_LONG_SENTENCE, _REPEATS = 40, 3  # a loop is a sentence of 40 characters said over three times more than before


@dataclass(frozen=True)
class Reading:
    """What the gate sees of a text; computed once, since a source is read for each of its rewrites."""

    text: str

    @cached_property
    def tokens(self) -> list[str]:
        """Words and numbers as written."""
        return _TOKEN.findall(self.text)

    @cached_property
    def low(self) -> list[str]:
        """The words in small letters, hyphenated ones taken apart."""
        return [part for word in words(self.text) for part in word.lower().split("-")]

    @cached_property
    def facts(self) -> Facts:
        """Numbers, expressions, equations."""
        return facts_of(self.text)

    @cached_property
    def spelt(self) -> "Counter[str]":
        """Numbers written as words."""
        return Counter(word for word in self.low if word in SPELT_NUMBERS)

    @cached_property
    def negations(self) -> "Counter[str]":
        """How often something is denied, whatever the word."""
        return Counter("not" for word in self.low if word in NEGATIONS or word.endswith(("n't", "n’t")))

    @cached_property
    def polar(self) -> "Counter[str]":
        """Words of direction."""
        return Counter(stem(word) for word in self.low if stem(word) in _POLAR_STEMS)

    @cached_property
    def concepts(self) -> set[str]:
        """Meanings of the content words."""
        return {concept(word) for word in self.low if carries_meaning(word)}

    @cached_property
    def capitalised(self) -> set[str]:
        """All words with a capital."""
        return {_bare(token) for token in self.tokens if token[0].isupper()}

    @cached_property
    def sentences(self) -> list[str]:
        """Its sentences; an answer belongs to its question."""
        return sentences(_ANSWER.sub(", ", self.text))

    @cached_property
    def names(self) -> set[str]:
        """Capitalised words that do not owe their capital to the start of a sentence."""
        found = set()
        for sentence in sentences(self.text):
            lead = _LEAD.match(sentence)
            start = lead.end() if lead else 0
            for match in _TOKEN.finditer(sentence, start):
                word = match[0]
                if word[0].isupper() and (word[1:2].isupper() or not _opens(sentence, start, match.start())):
                    found.add(_bare(word))
        return found - {"I"}

    @cached_property
    def runs(self) -> set[tuple[str, ...]]:
        """Runs of five words."""
        low = [token.lower() for token in self.tokens]
        return {tuple(low[at : at + 5]) for at in range(max(len(low) - 4, 1))}

    def neighbours(self, reach: int) -> dict[str, list[set[str]]]:
        """For each number, at each place, the nearest `reach` content words of its sentence on either side."""
        found: dict[str, list[set[str]]] = {}
        for sentence in self.sentences:
            tokens = _TOKEN.findall(sentence)
            if not any(token[0].isdigit() for token in tokens):
                continue
            content = [
                (at, concept(token))
                for at, token in enumerate(tokens)
                if not token[0].isdigit() and carries_meaning(token)
            ]
            for at, token in enumerate(tokens):
                if token[0].isdigit():
                    left = [word for where, word in content if where < at][-reach:]
                    right = [word for where, word in content if where > at][:reach]
                    found.setdefault(token.replace(",", ""), []).append({*left, *right})
        return found


def _bare(word: str) -> str:
    return word.replace("’", "'").removesuffix("'s")


def _opens(sentence: str, start: int, at: int) -> bool:
    """Whether a word at `at` starts the sentence or what follows a colon or a full stop in it."""
    return at == start or sentence[:at].rstrip(" \"'(").endswith((":", ".", "?"))


@lru_cache(maxsize=64)
def read(text: str) -> Reading:
    """The reading of a text, kept for the next rewrites of the same source."""
    return Reading(text)


def judge(
    source: str,
    rewrite: str,
    limits: GateLimits,
    title: str = "",
    longest: float = 2.0,
    method_words: frozenset[str] = frozenset(),
) -> list[str]:
    """Reasons to refuse `rewrite` of `source`, empty if it is faithful.

    `title` counts as part of the source; `method_words` may come in (how a kind of problem is solved); the rewrite may
    be `longest` times as long as the source.
    """
    known, told, named = read(source), Reading(rewrite), read(title)
    reasons = [
        *_numbers(known, told),
        *_names(known, told, named, method_words),
        *_same_counts("negation", known.negations, told.negations, set()),
        *_same_counts("direction", known.polar, told.polar, set(map(stem, named.low))),
        *_content(known, told, named, limits, {concept(word) for word in method_words}),
        *_form(known, told, limits, longest),
    ]
    return reasons or _company(known, told)


def _numbers(known: Reading, told: Reading) -> Iterator[str]:
    """Every number, expression and equation of the source is there as often; anything else is a true equation."""
    for kind in ("numbers", "expressions"):
        have, want = getattr(told.facts, kind), getattr(known.facts, kind)
        yield from (f"number_lost: {one}" for one in sorted(want - have))
        extra = [one for one in sorted(have - want) if kind == "numbers" or one not in told.facts.sides]
        yield from (f"number_invented: {one}" for one in extra)
    yield from (f"equation_lost: {one}" for one in sorted(known.facts.equations - told.facts.equations))
    yield from invented_equations(known.facts, told.facts)
    yield from (f"number_lost: {one}" for one in sorted(known.spelt - told.spelt))
    yield from (f"number_invented: {one}" for one in sorted(told.spelt - known.spelt))


def _same_counts(what: str, known: "Counter[str]", told: "Counter[str]", besides: set[str]) -> Iterator[str]:
    """A word of the title may be said as often as the rewrite likes."""
    for one in sorted((known - told) + (told - known)):
        if one not in besides:
            yield f"{what}_changed: {one} {known[one]} to {told[one]} times"


def _names(known: Reading, told: Reading, named: Reading, method_words: frozenset[str]) -> Iterator[str]:
    low = set(told.low)
    lost = [name for name in sorted(known.names - told.capitalised) if not set(name.lower().split("-")) <= low]
    yield from (f"name_lost: {name}" for name in lost)
    allowed = known.capitalised | named.capitalised
    yield from (f"name_invented: {name}" for name in sorted(told.names - allowed))
    meant = known.concepts | named.concepts
    for word in sorted(told.capitalised - allowed - told.names):
        plain = word.lower()
        if carries_meaning(plain) and concept(plain) not in meant and plain not in method_words | _HARMLESS:
            yield f"word_invented: {word}"


_HARMLESS = NEGATIONS | SPELT_NUMBERS | FUNCTION_WORDS | FRAMING_WORDS  # judged elsewhere, or grammar


def _content(known: Reading, told: Reading, named: Reading, limits: GateLimits, method: set[str]) -> Iterator[str]:
    low = told.text.lower()
    lost = sorted(one for one in known.concepts - told.concepts if not is_told(one, low))
    if len(lost) > limits.max_lost_words * len(known.concepts):
        yield f"content_lost: {len(lost)} of {len(known.concepts)} words, such as {', '.join(lost[:3])}"
    added = sorted(told.concepts - known.concepts - named.concepts - method)
    if len(added) > limits.max_new_words * len(told.concepts):
        yield f"content_invented: {len(added)} of {len(told.concepts)} words, such as {', '.join(added[:3])}"


def _form(known: Reading, told: Reading, limits: GateLimits, longest: float) -> Iterator[str]:
    ratio = len(told.text) / max(len(known.text), 1)
    if not limits.shortest <= ratio <= longest:
        yield f"length: {ratio:.2f} times the source"
    said, before = Counter(sentences(told.text)), Counter(sentences(known.text))
    looped = [
        one for one, n in said.items() if n > before[one] + _REPEATS and len(one) > _LONG_SENTENCE and one[-1] != "?"
    ]
    if looped:
        yield f"repetition: {looped[0][:60]}"


def copied(source: str, rewrite: str, limits: GateLimits) -> list[str]:
    """A reason to refuse a whole rewrite that is little else than its source; code in it may stay as it is."""
    known, told = read(source).runs, Reading(rewrite).runs
    share = len(known & told) / len(told)
    return [f"copy: {share:.0%} of the word runs are the source's"] if share > limits.max_copied else []


def _company(known: Reading, told: Reading) -> list[str]:
    """Numbers whose neighbours in the rewrite are none of those in the source: attached to another fact.

    Of a number's neighbours those count that no other number of the source has, if there are any: in "population,
    male: 12; population, female: 13" it is "male" that tells.
    """
    before, after = known.neighbours(_OWN_REACH), told.neighbours(_OTHER_REACH)
    shared = Counter(word for companies in before.values() for word in set().union(*companies))
    moved = []
    for number, companies in sorted(before.items()):
        for company in companies:
            telling = {word for word in company if shared[word] == 1} or company
            if telling and not any(telling & other for other in after.get(number, ())):
                moved.append(f"number_moved: {number} stood beside {', '.join(sorted(telling))}")
                break
    return moved
