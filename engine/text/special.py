"""Kimi K2's special tokens: their strings, their order, and their ids in a vocabulary of any size.

K2 keeps 256 ids after its 163,584 merges. Here the last `n_special` ids of the vocabulary are special: K2's first 18
in K2's order and at K2's offsets, then reserved ones, then [UNK] and [PAD]. So `n_special` = 256 with 163,840 ids in
all gives K2's own numbers, and 20 is the smallest table with every token of the chat format.
"""

from typing import Final

BOS: Final = "[BOS]"
EOS: Final = "[EOS]"
EOT: Final = "[EOT]"
UNK: Final = "[UNK]"
PAD: Final = "[PAD]"
IM_END: Final = "<|im_end|>"
IM_USER: Final = "<|im_user|>"
IM_ASSISTANT: Final = "<|im_assistant|>"
IM_SYSTEM: Final = "<|im_system|>"
IM_MIDDLE: Final = "<|im_middle|>"
CALLS_BEGIN: Final = "<|tool_calls_section_begin|>"
CALLS_END: Final = "<|tool_calls_section_end|>"
CALL_BEGIN: Final = "<|tool_call_begin|>"
CALL_ARGUMENT: Final = "<|tool_call_argument_begin|>"
CALL_END: Final = "<|tool_call_end|>"

TOOL_TOKENS: Final = (CALLS_BEGIN, CALLS_END, CALL_BEGIN, CALL_ARGUMENT, CALL_END)
"""Flagged special=false in the release, so that they survive `skip_special_tokens` and a server can parse calls."""

# Offsets from the first special id, as released; None is a reserved token.
_RELEASED: Final = (
    BOS,
    EOS,
    IM_END,
    IM_USER,
    IM_ASSISTANT,
    None,
    "<|start_header_id|>",
    "<|end_header_id|>",
    None,
    EOT,
    IM_SYSTEM,
    *TOOL_TOKENS,
    None,
    IM_MIDDLE,
)
MIN_SPECIAL: Final = len(_RELEASED) + 2


JOINER: Final = "\N{WORD JOINER}"
_SPELLED: Final = (
    "<|im_",
    "<|tool_call",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|reserved_token_",
    *(BOS, EOS, EOT, UNK, PAD),
)
"""How the strings of special tokens begin."""


def unspelled(text: str) -> str:
    """Return `text` with a word joiner inside each special token that it spells, as chat_template.jinja puts it."""
    for start in _SPELLED:
        text = text.replace(start, f"{start[0]}{JOINER}{start[1:]}")
    return text


def special_tokens(vocab_size: int, n_special: int) -> list[str]:
    """Return the special token strings in id order, for ids `vocab_size - n_special` to `vocab_size - 1`.

    Reserved tokens are named after their own id, as K2's are. `n_special` is at least `MIN_SPECIAL`.
    """
    if n_special < MIN_SPECIAL:
        raise ValueError(f"n_special is {n_special}; the chat format needs at least {MIN_SPECIAL}")
    first = vocab_size - n_special
    names = [*_RELEASED, *([None] * (n_special - MIN_SPECIAL)), UNK, PAD]
    return [name or f"<|reserved_token_{first + i}|>" for i, name in enumerate(names)]
