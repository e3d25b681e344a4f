"""Turn `Field: value` lines of a country's or an element's record into sentences, questions or points."""

import re

from nodes.rephrase.pieces import Piece, choose
from nodes.rephrase.prose import paraphrase, spell_estimate, synonyms, vary_list
from nodes.rephrase.words import sentences, word_set

_QUALIFIERS = word_set("total male female urban rural land water forest other large medium small")
# Fields whose subfields need a wording of their own; {} is the subfield.
_OF_FIELD = {
    "Country name": "{}",
    "Capital": "{} of the capital",
    "Executive branch": "{} in the executive branch",
    "Judicial branch": "{} in the judicial branch",
    "Legislative branch": "{} in the legislative branch",
    "Constitution": "{} of the constitution",
    "Land use": "share of land use under {}",
    "Urbanization": "{} (urbanization)",
    "Age structure": "age structure share of {}",
    "Nationality": "{} for the nationality",
    "Electricity generation sources": "share of {} in electricity generation sources",
    "National anthem(s)": "{} of the national anthem(s)",
    "Elevation": "{} in elevation",
    "International environmental agreements": "{} list of international environmental agreements",
}
_COUNT = re.compile(r"[\d,]+(?: million)?(?: \(\d{4}(?: est\.)?\))?")
_NUMERIC = re.compile(r"[-~$]?\d")

# {is_} agrees with the label.
_FIGURES = (
    "The {label} {of} {is_} {value}.",
    "For {subject}, the {label} {is_} given as {value}.",
    "The figure for the {label} {of} is {value}.",
    "{subject} reports {value} as its {label}.",
)
_FIGURES_IT = ("Its {label} {is_} {value}.", "The {label} {is_} {value}.", "The {label} {is_} given as {value}.")
_WORDS = (
    "The {label} {of} {is_} described as {value}.",
    "As to the {label} {of}, the entry gives {value}.",
    "On the {label} {of}, one reads: {value}.",
)
_WORDS_IT = ("Its {label} {is_} given as {value}.", "As for the {label}: {value}.", "On its {label}: {value}.")
_QUESTIONS = (
    "What {is_} the {label} {of}?",
    "What does the entry on {subject} say about its {label}?",
    "How {is_} the {label} {of} described?",
)
_COUNTED = (
    "What {is_} the {label} {of}?",
    "Which figure is given for the {label} {of}?",
    "What is known of the {label} {of}?",
)


def label_of(field: str) -> str:
    """Return the field's name as a noun phrase: "Area, land" is the land area."""
    base, note = (field.removesuffix(" (note)"), "note on the ") if field.endswith(" (note)") else (field, "")
    main, _, sub = base.partition(", ")
    if not sub:
        return note + _small(main.replace(" - ", ", "))
    if sub == "name":
        return f"{note}name of the {_small(main)}"
    if main in _OF_FIELD:
        return note + _OF_FIELD[main].format(_small(sub))
    if sub.startswith("by "):
        return f"{note}{_small(main)} {sub}"
    if set(sub.split()) <= _QUALIFIERS | {"very"}:
        return f"{note}{sub} {_small(main)}"
    if main.lower().split(" - ")[0] in sub.lower():
        return f"{note}{_small(sub)}"
    return f"{note}{_small(sub)} for {_small(main)}"


def _is_plural(label: str) -> bool:
    """Return whether the noun phrase's head, its last word before a preposition, is a plural."""
    head = re.split(r" (?:of|for|on|in|under|to)\b| \(|,", label)[0].removesuffix("(s)")
    return head.endswith("s") and not head.endswith(("ss", "us", "is", "gas"))


def _small(text: str) -> str:
    """Lower the first letter, except of acronyms and one-letter words."""
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def tell(line: str, piece: Piece, at: int) -> str:
    """Return one record line in the layout of the piece's style; `at` is its index in the piece."""
    field, _, value = line.partition(": ")
    key = f"{piece.key}:{field}"
    label, prose = label_of(field.strip()), _reworded(value.strip(), key)
    if _COUNT.fullmatch(value) and _is_plural(label):
        label = f"number of {label}"
    of, is_ = f"of {piece.subject}", "are" if _is_plural(label) else "is"
    if piece.style.layout == "question_answer":
        questions = _COUNTED if _NUMERIC.match(value) else _QUESTIONS
        question = choose(questions, key, "question").format(label=label, of=of, subject=piece.subject, is_=is_)
        return f"Q: {question}\nA: {_upper(_closed(prose))}"
    if piece.style.layout == "points":
        return f"- {_upper(prose)} ({label})" if _is_short(prose) else f"- On the {label}: {_closed(prose)}"
    if not _is_phrase(value):
        return (
            f"{choose(('On the', 'As for the', 'Concerning the'), key, 'lead')} {label} {of}: {_upper(_closed(prose))}"
        )
    named = at % 4 == 0  # the subject's name in every fourth line, "its" in the others
    frames = (_FIGURES if named else _FIGURES_IT) if _NUMERIC.match(value) else (_WORDS if named else _WORDS_IT)
    return choose(frames, key, "frame").format(
        label=label, of=of, subject=piece.subject, value=prose.rstrip("."), is_=is_
    )


def _reworded(value: str, key: str) -> str:
    """Return the value in other words."""
    if _is_phrase(value):
        return synonyms(vary_list(spell_estimate(value, key), key), key)
    return " ".join(paraphrase(sentence, f"{key}:{n}") for n, sentence in enumerate(sentences(value)))


def _is_phrase(value: str) -> bool:
    """Return whether the value is no full sentence, so that it fits after "is described as"."""
    return len(sentences(value)) == 1 and not value.endswith(".") and len(value) < 240


def _is_short(value: str) -> bool:
    return len(value) < 60 and ":" not in value


def _closed(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
