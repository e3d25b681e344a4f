"""The fidelity gate refuses a rewrite that lost, changed or invented something, and gives the reason.

K2 compares rewrite and source for semantic alignment as its first quality gate (arXiv 2507.20534, section 2.2). An
embedding does not notice a wrong date (cosine 0.982 against 0.985 for a faithful rewrite, measured here), so facts
are compared one by one: numbers, expressions and equations; names; negations and words of direction; and the share
of content words kept and added. A number must also keep one of its neighbouring words.
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
    is_expressed,
    sentences,
    stem,
    words,
)

_POLAR_STEMS = frozenset(map(stem, POLAR_WORDS))
_TOKEN = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d[\d,]*(?:\.\d+)?")
_LEAD = re.compile(r"[\s\-*•>\"'(\[]*(?:[QA]: )?[\s\"'(\[]*")
_ANSWER = re.compile(r"\?\s*\nA: ")
_OWN_REACH, _OTHER_REACH = 2, 9  # the number of a number's neighbours, and the reach within which one must remain
_LONG_SENTENCE, _REPEATS = 40, 3  # a loop: a sentence of over 40 characters repeated over three times more than before


@dataclass(frozen=True)
class Reading:
    """The features of a text that the gate compares, computed once, since a source is read for each of its rewrites."""

    text: str

    @cached_property
    def tokens(self) -> list[str]:
        """Words and numbers as written."""
        return _TOKEN.findall(self.text)

    @cached_property
    def low(self) -> list[str]:
        """The words in lower case, hyphenated words split."""
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
        """The number of negations, whatever the word."""
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
        """The sentences; an answer belongs to its question."""
        return sentences(_ANSWER.sub(", ", self.text))

    @cached_property
    def names(self) -> set[str]:
        """Capitalised words whose capital is not due to the start of a sentence."""
        names = set()
        for sentence in sentences(self.text):
            lead = _LEAD.match(sentence)
            start = lead.end() if lead else 0
            for match in _TOKEN.finditer(sentence, start):
                word = match[0]
                if word[0].isupper() and (word[1:2].isupper() or not _opens(sentence, start, match.start())):
                    names.add(_bare(word))
        return names - {"I"}

    @cached_property
    def runs(self) -> set[tuple[str, ...]]:
        """Runs of five words."""
        low = [token.lower() for token in self.tokens]
        return {tuple(low[at : at + 5]) for at in range(max(len(low) - 4, 1))}

    def neighbours(self, reach: int) -> dict[str, list[set[str]]]:
        """Return for each occurrence of each number the nearest `reach` content words on either side."""
        neighbours: dict[str, list[set[str]]] = {}
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
                    neighbours.setdefault(token.replace(",", ""), []).append({*left, *right})
        return neighbours


def _bare(word: str) -> str:
    return word.replace("’", "'").removesuffix("'s")


def _opens(sentence: str, start: int, at: int) -> bool:
    """Return whether a word at `at` starts the sentence, or follows a colon or a full stop in it."""
    return at == start or sentence[:at].rstrip(" \"'(").endswith((":", ".", "?"))


@lru_cache(maxsize=64)
def read(text: str) -> Reading:
    """Return the reading of a text, cached for further rewrites of the same source."""
    return Reading(text)


def judge(
    source: str,
    rewrite: str,
    limits: GateLimits,
    title: str = "",
    longest: float = 2.0,
    method_words: frozenset[str] = frozenset(),
) -> list[str]:
    """Return reasons to refuse `rewrite` of `source`, empty if it is faithful.

    `title` counts as part of the source; `method_words` may be added (they describe how a kind of problem is solved);
    the rewrite may be `longest` times as long as the source.
    """
    original, revision, heading = read(source), Reading(rewrite), read(title)
    reasons = [
        *_numbers(original, revision),
        *_names(original, revision, heading, method_words),
        *_same_counts("negation", original.negations, revision.negations, set()),
        *_same_counts("direction", original.polar, revision.polar, set(map(stem, heading.low))),
        *_content(original, revision, heading, limits, {concept(word) for word in method_words}),
        *_form(original, revision, limits, longest),
    ]
    return reasons or _company(original, revision)


def _numbers(original: Reading, revision: Reading) -> Iterator[str]:
    """Yield numbers, expressions and equations that are lost or invented; true, derived equations are allowed."""
    for kind in ("numbers", "expressions"):
        have, want = getattr(revision.facts, kind), getattr(original.facts, kind)
        yield from (f"number_lost: {item}" for item in sorted(want - have))
        extra = [item for item in sorted(have - want) if kind == "numbers" or item not in revision.facts.sides]
        yield from (f"number_invented: {item}" for item in extra)
    yield from (f"equation_lost: {item}" for item in sorted(original.facts.equations - revision.facts.equations))
    yield from invented_equations(original.facts, revision.facts)
    yield from (f"number_lost: {item}" for item in sorted(original.spelt - revision.spelt))
    yield from (f"number_invented: {item}" for item in sorted(revision.spelt - original.spelt))


def _same_counts(kind: str, original: "Counter[str]", revision: "Counter[str]", exempt: set[str]) -> Iterator[str]:
    """Yield the words whose count changed; words of the title may occur any number of times."""
    for item in sorted((original - revision) + (revision - original)):
        if item not in exempt:
            yield f"{kind}_changed: {item} {original[item]} to {revision[item]} times"


def _names(original: Reading, revision: Reading, heading: Reading, method_words: frozenset[str]) -> Iterator[str]:
    low = set(revision.low)
    lost = [name for name in sorted(original.names - revision.capitalised) if not set(name.lower().split("-")) <= low]
    yield from (f"name_lost: {name}" for name in lost)
    allowed = original.capitalised | heading.capitalised
    yield from (f"name_invented: {name}" for name in sorted(revision.names - allowed))
    meanings = original.concepts | heading.concepts
    for word in sorted(revision.capitalised - allowed - revision.names):
        plain = word.lower()
        if carries_meaning(plain) and concept(plain) not in meanings and plain not in method_words | _HARMLESS:
            yield f"word_invented: {word}"


_HARMLESS = NEGATIONS | SPELT_NUMBERS | FUNCTION_WORDS | FRAMING_WORDS  # judged by another check, or grammar


def _content(
    original: Reading, revision: Reading, heading: Reading, limits: GateLimits, method: set[str]
) -> Iterator[str]:
    low = revision.text.lower()
    lost = sorted(meaning for meaning in original.concepts - revision.concepts if not is_expressed(meaning, low))
    if len(lost) > limits.max_lost_words * len(original.concepts):
        yield f"content_lost: {len(lost)} of {len(original.concepts)} words, such as {', '.join(lost[:3])}"
    added = sorted(revision.concepts - original.concepts - heading.concepts - method)
    if len(added) > limits.max_new_words * len(revision.concepts):
        yield f"content_invented: {len(added)} of {len(revision.concepts)} words, such as {', '.join(added[:3])}"


def _form(original: Reading, revision: Reading, limits: GateLimits, longest: float) -> Iterator[str]:
    ratio = len(revision.text) / max(len(original.text), 1)
    if not limits.shortest <= ratio <= longest:
        yield f"length: {ratio:.2f} times the source"
    counts, before = Counter(sentences(revision.text)), Counter(sentences(original.text))
    looped = [
        sentence
        for sentence, n in counts.items()
        if n > before[sentence] + _REPEATS and len(sentence) > _LONG_SENTENCE and sentence[-1] != "?"
    ]
    if looped:
        yield f"repetition: {looped[0][:60]}"


def copied(source: str, rewrite: str, limits: GateLimits) -> list[str]:
    """Return a reason to refuse a rewrite that mostly repeats its source; code in it may stay as it is."""
    original, revision = read(source).runs, Reading(rewrite).runs
    share = len(original & revision) / len(revision)
    return [f"copy: {share:.0%} of the word runs are the source's"] if share > limits.max_copied else []


def _company(original: Reading, revision: Reading) -> list[str]:
    """Return the numbers none of whose neighbours in the source remain: they are attached to another fact.

    If some of a number's neighbours belong to no other number, only those count: in "population, male: 12; population,
    female: 13", "male" is what identifies the number.
    """
    before, after = original.neighbours(_OWN_REACH), revision.neighbours(_OTHER_REACH)
    shared = Counter(word for companies in before.values() for word in set().union(*companies))
    moved = []
    for number, companies in sorted(before.items()):
        for company in companies:
            identifying = {word for word in company if shared[word] == 1} or company
            if identifying and not any(identifying & other for other in after.get(number, ())):
                moved.append(f"number_moved: {number} stood beside {', '.join(sorted(identifying))}")
                break
    return moved
