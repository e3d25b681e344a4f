"""Paraphrase sentences by rule: clauses move, words are replaced by synonyms, facts stay as they are."""

import re
from collections.abc import Callable

from nodes.rephrase.pieces import choose, unit_hash
from nodes.rephrase.words import FUNCTION_WORDS, SYNONYMS, word_set

# A synonym must not replace words around these characters, which are often part of a name or a fixed term.
_PHRASES = sorted(SYNONYMS, key=len, reverse=True)
_SYNONYM = re.compile(rf"(?<![\w\-'.(`])({'|'.join(map(re.escape, _PHRASES))})(?![\w\-'(`=])")
_TIME = r"(?:In|By|During|Since|After|Between|From|Until|On) (?:[a-z]+ ){0,4}(?:[A-Z][a-z]+ )?\d{3,4}s?(?: and \d{4})?"
_FRONTED = re.compile(rf"^({_TIME}), ([^,;:()]{{5,90}})\.$")  # short, so that a date stays near its neighbours
_BACKED = re.compile(r"^([A-Z][^,;:()]{5,90}) (in (?:[A-Z][a-z]+ )?\d{4})\.$")
_BUT = re.compile(r"(?<=\w), but (?=\w)")
_WHILE = re.compile(r"(?<=\w), while (?=\w)")
_IF = re.compile(r"(?<=[a-z]) if (?=(?:the|a|an|it|this|there|no|any)\b)")
_RELATIVE = re.compile(
    r", which (was|is|has|had|lasted|led|ended|became|began|remains|includes|contains|means) ([^,;:]+)\.$"
)
_CONTRAST = re.compile(r"^(Although|While|Though) ([^,;:()]+), ([^,;:()]+)\.$")
_CONDITION = re.compile(r"^(If|When|Because) ([^,;:()]+), (?!then\b)([^,;:()]+)\.$")
_TRAILING = re.compile(r"^([A-Z][^,;:()]+),? (if|when|because|unless) ([^,;:()]+)\.$")
_DRAWN = 0.85  # share of possible rearrangements made, so that one source gives different rewrites
_ESTIMATE = re.compile(r"\((\d{4}) est\.\)")


def paraphrase(sentence: str, key: str, thorough: float = 0.8) -> str:
    """Return the sentence in other words; `thorough` is the share of possible word changes that is made."""
    return synonyms(restructure(sentence, key), key, thorough)


def synonyms(text: str, key: str, thorough: float = 0.8) -> str:
    """Replace words by synonyms where the context allows, each by its own random draw."""

    def put(match: re.Match[str]) -> str:
        if unit_hash(key, match[0], match.start()) >= thorough:
            return match[0]
        return SYNONYMS[match[1]]

    for name, joint, other in _JOINTS:
        text = joint.sub(other, text) if unit_hash(key, name) < thorough else text
    return _articles(_SYNONYM.sub(put, text))


_JOINTS = (("but", _BUT, ", yet "), ("while", _WHILE, ", whereas "), ("if", _IF, " provided that "))


def _articles(text: str) -> str:
    """Make articles agree with the word after them, for the first words that SYNONYMS brings in."""
    return _AN.sub(r"\1n \2", _A.sub(r"\1 \2", text))


_BROUGHT_IN = sorted({phrase.split()[0] for phrase in SYNONYMS.values()})
_A = re.compile(rf"\b([Aa])n ({'|'.join(word for word in _BROUGHT_IN if word[0] not in 'aeiou')})\b")
_AN = re.compile(
    rf"\b([Aa]) ({'|'.join(word for word in _BROUGHT_IN if word[0] in 'aeio' and not word.startswith('on'))})\b"
)


def restructure(sentence: str, key: str) -> str:
    """Apply the first rule that fits and is drawn; return the sentence unchanged if none does."""
    for name, rule in _RULES:
        changed = rule(sentence)
        if changed != sentence and unit_hash(key, name) < _DRAWN:
            return changed
    return sentence


def _third(verb: str) -> str:
    """Return a verb's third person."""
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return f"{verb[:-1]}ies"
    return f"{verb}es" if verb.endswith(("s", "sh", "ch", "x")) else f"{verb}s"


_VERBS = word_set(
    """return create make get set check test convert compute find give read write open close print parse raise
    remove add append insert delete update build encode decode send receive call start stop run list show
    display format copy move load store save define determine handle process register replace split join format
    initialize execute register wait connect compile extract generate iterate retrieve produce provide perform
    represent apply search"""
)
_IMPERATIVE = re.compile(rf"^({'|'.join(sorted(verb.capitalize() for verb in _VERBS))}) (?![=:(])")
_THIRD = re.compile(rf"^({'|'.join(sorted(_third(verb).capitalize() for verb in _VERBS))}) (?![=:(])")
_FINITE = re.compile(
    r"\b(?:is|are|was|were|be|has|have|had|can|may|must|should|will|would|does|do|did|[a-z]+(?:ates|ises|izes|rns|fies|urs|"
    r"ains|ents|ides|ives|uces|ows|ins|ets|kes|eeds|lls|ends))\b"
)
_PARTICIPLE = re.compile(
    r"^(Discovered|Used|Found|Obtained|Named|Made|Extracted|Confirmed|Isolated|Prepared|Produced|Required|Identified|"
    r"Synthesized|Created|Mined|Known|Recognized|Raised|Called) "
    r"(?=by|in|as|for|from|to|and|with|after|only|mainly|during|when|if)"
)
_VERB_FIRST = re.compile(
    r"^(Has|Occurs|Reacts|Oxidizes|Belongs|Burns|Forms|Resembles|Tarnishes|Exists|Does|Is|Combines) "
)
_BELONGS = re.compile(r"^([A-Z][^.:;]*? element)((?:,| of| in| that| with|\.).*)$")
_PAST = word_set("Discovered Named Confirmed Isolated Identified Synthesized")


def _third_person(sentence: str) -> str:
    """Turn a docstring's imperative into a statement: "Return the list" becomes "This returns the list"."""
    match = _IMPERATIVE.match(sentence)
    if match and not re.search(r"^\w+ (?:and|or) |, and |, then ", sentence):
        return f"This {_third(match[1].lower())} {sentence[match.end() :]}"
    match = _THIRD.match(sentence)
    return f"This {_lower(sentence)}" if match else sentence


def _whole_sentence(sentence: str) -> str:
    """Turn a fragment into a sentence: "A buffer for lines." becomes "This is a buffer for lines."."""
    if re.match(r"^(?:A|An) ", sentence) and sentence.endswith(".") and not _FINITE.search(sentence):
        return f"This is {_lower(sentence)}"
    match = _PARTICIPLE.match(sentence)
    if match and not re.search(rf"^{match[1]}[^,.]*, ", sentence):
        return f"It {'was' if match[1] in _PAST else 'is'} {_lower(sentence)}"
    match = _BELONGS.match(sentence)
    if match and not _FINITE.search(match[1]):
        article = "an" if match[1][0] in "AEIOU" else "a"
        rest = match[2].replace(", belongs to", " that belongs to", 1)
        return f"It is {article} {_lower(match[1])}{rest}"
    return f"It {_lower(sentence)}" if _VERB_FIRST.match(sentence) else sentence


def _back_time(sentence: str) -> str:
    match = _FRONTED.match(sentence)
    return f"{_upper(match[2])} {_lower(match[1])}." if match else sentence


def _front_time(sentence: str) -> str:
    match = _BACKED.match(sentence)
    return f"{_upper(match[2])}, {lower_start(match[1])}." if match else sentence


def _untie_relative(sentence: str) -> str:
    match = _RELATIVE.search(sentence)
    return f"{sentence[: match.start()]}; this {match[1]} {match[2]}." if match else sentence


def _turn_contrast(sentence: str) -> str:
    match = _CONTRAST.match(sentence)
    return f"{_upper(match[3])}, {_lower(match[1])} {match[2]}." if match else sentence


def _turn_condition(sentence: str) -> str:
    match = _CONDITION.match(sentence)
    return f"{_upper(match[3])} {_lower(match[1])} {match[2]}." if match else sentence


def _front_condition(sentence: str) -> str:
    match = _TRAILING.match(sentence)
    if not match or re.search(r"\b(?:and|or|but)\b", match[0]):
        return sentence
    return f"{_upper(match[2])} {match[3]}, {lower_start(match[1])}."


_RULES: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("third_person", _third_person),
    ("whole_sentence", _whole_sentence),
    ("back_time", _back_time),
    ("contrast", _turn_contrast),
    ("condition", _turn_condition),
    ("relative", _untie_relative),
    ("front_time", _front_time),
    ("front_condition", _front_condition),
)


def mark(sentence: str, marker: str) -> str:
    """Put a discourse marker before a sentence: "Note that the inner code ..."."""
    return f"{marker} {lower_start(sentence)}"


def lower_start(sentence: str) -> str:
    """Lower the first letter if the first word is grammar; a name or an unknown word keeps its capital."""
    first = re.match(r"[A-Za-z']+", sentence)
    return _lower(sentence) if first and first[0].lower() in FUNCTION_WORDS and first[0] != "I" else sentence


def can_lower(sentence: str) -> bool:
    """Return whether a marker may stand before the sentence without a stray capital after it."""
    return lower_start(sentence) != sentence


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def spell_estimate(text: str, key: str) -> str:
    """Write `(2025 est.)` in words."""
    return _ESTIMATE.sub(choose((r"(\1 estimate)", r"by a \1 estimate", r"as estimated for \1"), key), text)


def vary_list(text: str, key: str) -> str:
    """Reorder a list of short items without figures, joining the last item by "and"; leave other text unchanged."""
    items = text.split(", ")
    if (
        len(items) < 3
        or re.search(r"[\d;:.()/]| and | or |\b(?:other|some|mostly|etc)\b", text)
        or max(map(len, items)) > 30
    ):
        return text
    turned = sorted(items, key=lambda item: unit_hash(key, item))
    return f"{', '.join(turned[:-1])} and {turned[-1]}"
