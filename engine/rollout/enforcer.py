"""K2's enforcer: once a model opens a section of tool calls, it can write only legal calls of its declared tools.

Text before the section stays free (K2 paper, appendix B). Legal means what the template allows (marks in their order,
ids that count the dialogue's calls) and what the tool's schema declares; whether a name or an amount is correct is
left to the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import numpy as np
from torch import Tensor

from engine.device import placed
from engine.rollout.grammar import START, State, Text, Vocabulary, arguments, header
from engine.text.special import CALL_ARGUMENT, CALL_BEGIN, CALL_END, CALLS_BEGIN, CALLS_END, IM_END
from engine.text.tokenizer import K2Tokenizer
from engine.toolworld.specs import ToolSpec

Declared = tuple[Sequence[ToolSpec], int]
"""The tools of a dialogue, and the number of its calls so far."""
FREE: Final = "free"

_vocabulary = lru_cache(maxsize=2)(Vocabulary)


@dataclass
class _Row:
    """The state of one dialogue's turn: the mark or text that it is in."""

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
        """Return the ids that may come next in a row; None if all may."""
        turn = self.rows[row]
        if turn.place == FREE:
            return None
        if turn.place in (CALL_BEGIN, CALL_ARGUMENT):
            return list(self.vocabulary.following(turn.text, turn.state)) or [self.id_of[_AFTER[turn.place][0]]]
        return [self.id_of[mark] for mark in _AFTER[turn.place]]

    def mask_(self, logits_BV: Tensor, rows: Sequence[int]) -> None:
        """Mask what is illegal in each of `rows`, one per line of the logits, by one mask made on the host."""
        legal = {line: ids for line, row in enumerate(rows) if (ids := self.legal(row)) is not None}
        if not legal:
            return
        illegal_BV = np.zeros(logits_BV.shape, dtype=np.bool_)
        for line, ids in legal.items():
            illegal_BV[line] = True
            illegal_BV[line, ids] = False
        logits_BV.masked_fill_(placed(illegal_BV, logits_BV.device), float("-inf"))

    def take(self, row: int, token: int) -> None:
        """Advance a row by the token that was drawn for it."""
        turn = self.rows[row]
        if turn.place in (CALL_BEGIN, CALL_ARGUMENT) and token not in self.id_of.values():
            turn.state = self.vocabulary.following(turn.text, turn.state)[token]
            turn.written.append(token)
            return
        mark = next((mark for mark, i in self.id_of.items() if i == token), None)
        if turn.place == FREE and mark != CALLS_BEGIN:
            return
        if mark == CALL_BEGIN:
            turn.text = header([tool.name for tool in turn.tools], turn.calls)
            turn.calls += 1
        elif mark == CALL_ARGUMENT:
            name = self.tokenizer.decode(turn.written).removeprefix("functions.").rpartition(":")[0]
            turn.text = arguments(next(tool.parameters for tool in turn.tools if tool.name == name))
        turn.place, turn.state, turn.written = str(mark), START, []


_AFTER: Final = {
    CALLS_BEGIN: (CALL_BEGIN,),
    CALL_BEGIN: (CALL_ARGUMENT,),
    CALL_ARGUMENT: (CALL_END,),
    CALL_END: (CALL_BEGIN, CALLS_END),
    CALLS_END: (IM_END,),
    IM_END: (IM_END,),
}
"""The marks that may follow a mark, or follow the complete text after it."""
