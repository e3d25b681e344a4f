"""K2's enforcer: once a model opens a section of tool calls, only legal calls of its declared tools can be written.

Text before the section stays free (K2 paper, appendix B). Legal is what the template says (marks in their order, ids
that count the dialogue's calls) and what the tool's schema declares; whether a name or an amount is the right one stays
the model's business.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from torch import Tensor

from engine.rollout.grammar import START, State, Text, Vocabulary, arguments, header
from engine.text.special import CALL_ARGUMENT, CALL_BEGIN, CALL_END, CALLS_BEGIN, CALLS_END, IM_END
from engine.text.tokenizer import K2Tokenizer
from engine.toolworld.specs import ToolSpec

Declared = tuple[Sequence[ToolSpec], int]
"""The tools of a dialogue, and how many calls it holds so far."""
FREE: Final = "free"

_vocabulary = lru_cache(maxsize=2)(Vocabulary)


@dataclass
class _Row:
    """Where one dialogue's turn stands: the mark or text that it is in."""

    tools: Sequence[ToolSpec]
    calls: int
    place: str = FREE
    text: Text = ()
    state: State = START
    written: list[int] = field(default_factory=list)


class Enforcer:
    """The constraint of one batch of turns for `generate`: row i belongs to `declared[i]`."""

    def __init__(self, tokenizer: K2Tokenizer, declared: Sequence[Declared]) -> None:
        self.tokenizer, self.vocabulary = tokenizer, _vocabulary(tokenizer)
        self.rows = [_Row(tools, calls) for tools, calls in declared]
        marks = (CALLS_BEGIN, CALL_BEGIN, CALL_ARGUMENT, CALL_END, CALLS_END, IM_END)
        self.id_of = {mark: tokenizer.special(mark) for mark in marks}

    def legal(self, row: int) -> list[int] | None:
        """The ids that may come next in a row; None where any may."""
        at = self.rows[row]
        if at.place == FREE:
            return None
        if at.place in (CALL_BEGIN, CALL_ARGUMENT):
            return list(self.vocabulary.following(at.text, at.state)) or [self.id_of[_AFTER[at.place][0]]]
        return [self.id_of[mark] for mark in _AFTER[at.place]]

    def mask_(self, logits_BV: Tensor, rows: Sequence[int]) -> None:
        """Rule out what is not legal in each of `rows`, one a line of the logits."""
        for line, row in enumerate(rows):
            legal = self.legal(row)
            if legal is not None:
                kept = logits_BV[line, legal]
                logits_BV[line] = float("-inf")
                logits_BV[line, legal] = kept

    def take(self, row: int, token: int) -> None:
        """Go on with what was drawn for a row."""
        at = self.rows[row]
        if at.place in (CALL_BEGIN, CALL_ARGUMENT) and token not in self.id_of.values():
            at.state = self.vocabulary.following(at.text, at.state)[token]
            at.written.append(token)
            return
        mark = next((mark for mark, i in self.id_of.items() if i == token), None)
        if at.place == FREE and mark != CALLS_BEGIN:
            return
        if mark == CALL_BEGIN:
            at.text = header([tool.name for tool in at.tools], at.calls)
            at.calls += 1
        elif mark == CALL_ARGUMENT:
            name = self.tokenizer.decode(at.written).removeprefix("functions.").rpartition(":")[0]
            at.text = arguments(next(tool.parameters for tool in at.tools if tool.name == name))
        at.place, at.state, at.written = str(mark), START, []


_AFTER: Final = {
    CALLS_BEGIN: (CALL_BEGIN,),
    CALL_BEGIN: (CALL_ARGUMENT,),
    CALL_ARGUMENT: (CALL_END,),
    CALL_END: (CALL_BEGIN, CALLS_END),
    CALLS_END: (IM_END,),
    IM_END: (IM_END,),
}
"""The marks that may follow a mark, or the complete text after it."""
