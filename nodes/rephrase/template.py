"""The template engine: a deterministic writer; its rewrites are faithful by construction, but are judged too."""

import re

from nodes.rephrase.notes import problem_note, sum_note
from nodes.rephrase.pieces import Piece, Unit, choose
from nodes.rephrase.prose import can_lower, mark, paraphrase
from nodes.rephrase.records import tell
from nodes.rephrase.words import FUNCTION_WORDS, NEGATIONS, POLAR_WORDS, words

_ABOUT = ("What is said about {}?", "What should one know about {}?", "What does the text tell us about {}?")
_GENERAL = ("What comes next?", "What else is said?", "What follows?", "What is noted here?")
_DOES = ("What does {} do?", "What is {} for?", "How is {} described?")
_IS = ("What is {}?", "How is {} described?", "What is said about {}?")
_ELSE = ("What else is said about {}?", "What is further noted about {}?")
_RECORDS_A_LINE = 4
_NO_NAMES = NEGATIONS | POLAR_WORDS | FUNCTION_WORDS
_HEADING = re.compile(r"[A-Za-z_][A-Za-z_.]*(?:\(.*\))?")  # of a docstring; one with a figure is not repeated


class TemplateWriter:
    """Rewrites by rule; every choice depends on the piece's key."""

    generator = "template"

    def rewrite(self, piece: Piece) -> str:
        """Rewrite the piece unit by unit in its style's layout; the first piece begins with the style's opener."""
        rewrites: list[Unit] = []
        marked, heading = _marked_before(piece), ""
        for at, unit in enumerate(piece.units):
            if unit.kind == "verbatim":
                match = _HEADING.fullmatch(unit.text)
                heading = match[0] if match else ""
            text, marked = self._unit(unit, piece, at, marked, heading)
            rewrites.append(Unit(unit.kind, text, unit.paragraph))
        opener = _opener(piece)
        return f"{opener}\n\n{_laid_out(rewrites, piece)}" if opener else _laid_out(rewrites, piece)

    def _unit(self, unit: Unit, piece: Piece, at: int, marked: int, heading: str) -> tuple[str, int]:
        """Return the unit's rewrite, and how many sentences ago a marker was set."""
        match unit.kind:
            case "record":
                return tell(unit.text, piece, at), marked + 1
            case "problem":
                return problem_note(unit.text, piece, with_idea=at == 0 and not piece.previous), marked
            case "sum":
                return sum_note(unit.text, piece), marked
            case "verbatim":
                return unit.text, marked
            case "sentence":
                return self._sentence(unit.text, piece, at, marked, heading)

    def _sentence(self, sentence: str, piece: Piece, at: int, marked: int, heading: str) -> tuple[str, int]:
        key = f"{piece.key}:{at}"
        rewrite = paraphrase(sentence, key)
        if piece.style.layout == "question_answer":
            opens = at > 0 and piece.units[at - 1].kind == "verbatim"
            return f"Q: {_question(sentence, key, heading, opens)}\nA: {rewrite}", marked + 1
        if piece.style.layout == "points":
            return f"- {rewrite}", marked + 1
        if marked >= 2 and piece.perspective.markers and can_lower(rewrite):
            return mark(rewrite, choose(piece.perspective.markers, key, "marker")), 0
        return rewrite, marked + 1


def _marked_before(piece: Piece) -> int:
    """Return the number of sentences since the last marker, so that none is repeated where pieces meet."""
    tail = piece.previous[-1][-200:] if piece.previous else ""
    return 0 if any(marker in tail for marker in piece.perspective.markers) else 2


def _opener(piece: Piece) -> str:
    if piece.previous or not piece.style.openers or re.search(r"\d", piece.subject):  # the gate refuses an added figure
        return ""
    opener = choose(piece.style.openers, piece.key, "opener").format(subject=piece.subject)
    return opener if piece.subject in opener[: len(piece.subject)] else opener[:1].upper() + opener[1:]


def _question(sentence: str, key: str, heading: str, opens: bool) -> str:
    """Return a question that the sentence answers, about the documented name or the first name in the sentence."""
    if heading:
        name, call, _ = heading.partition("(")
        return choose((_DOES if call else _IS) if opens else _ELSE, key, "question").format(name)
    inner = re.sub(r"^\W*\w+", "", sentence)
    named = [
        word
        for word in words(inner)
        if word[0].isupper() and len(word) > 2 and word[1:].islower() and word.lower() not in _NO_NAMES
    ]
    return choose(_ABOUT, key, "question").format(named[0]) if named else choose(_GENERAL, key, "question")


def _laid_out(units: list[Unit], piece: Piece) -> str:
    """Join units: in the prose layouts sentences and records flow, four records per line; else one unit per line."""
    lines: list[str] = []
    records, before = 0, None
    for unit in units:
        flows = piece.style.layout in ("prose", "notes") and unit.kind in ("sentence", "record")
        joins = before is not None and before.paragraph == unit.paragraph and before.kind in ("sentence", "record")
        records = records + 1 if unit.kind == "record" else records
        if flows and joins and not (unit.kind == "record" and records > _RECORDS_A_LINE):
            lines[-1] += f" {unit.text}"
        else:
            if before is not None and before.paragraph != unit.paragraph:
                lines.append("")
            lines.append(unit.text)
            records = 1 if unit.kind == "record" else 0
        before = unit
    return "\n".join(lines)
