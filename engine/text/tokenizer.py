"""K2Tokenizer turns text into ids and back, safe against special strings in the text, without transformers."""

import codecs
import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from engine.errors import UserError
from engine.remedy import remake
from engine.text.special import EOS, IM_END, PAD

TOKENIZER: Final = "tokenizer.json"


def _byte_of_character() -> dict[str, int]:
    """Return GPT-2's reversible map: each byte has a printable character, in which BPE token strings are written."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in set(printable)]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


_NEUTRAL: Final[dict[str, Any]] = {"added_tokens": [], "truncation": None, "padding": None, "post_processor": None}
"""What `encode` replaces in a tokenizer.json: special tokens, and what other software adds to or cuts off a text."""


def _parts(parsed: dict[str, Any]) -> dict[str, Any]:
    """Return the parts that decide which ids a text gets and what the ids mean, however the file was written.

    Another version of the library, or transformers' save_pretrained, writes the same tokenizer with other white space,
    with merges as "a b" for ["a", "b"], and with a post-processor that does nothing.
    """
    model = parsed["model"]
    merges = [pair.split(" ") if isinstance(pair, str) else list(pair) for pair in model["merges"]]
    rest = {key: value for key, value in model.items() if key not in ("vocab", "merges") and value not in (None, "")}
    return {
        "vocabulary": model["vocab"],
        "merges": merges,
        "model": {key: value for key, value in rest.items() if value is not False},
        "normalizer": parsed.get("normalizer"),
        "pre_tokenizer": parsed.get("pre_tokenizer"),
        "special tokens": sorted([token["id"], token["content"], token["special"]] for token in parsed["added_tokens"]),
    }


def _digest(content: Any) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


class K2Tokenizer:
    """A byte-level BPE tokenizer with K2's special tokens.

    `encode` never yields a special id: a user who types `<|im_end|>` gets its characters, so text cannot close a turn
    or open a tool call. Only `engine.text.chat` places special ids. `decode` is exact on bytes.
    """

    def __init__(self, definition: str) -> None:
        """Build the tokenizer from the text of a tokenizer.json."""
        parsed: dict[str, Any] = json.loads(definition)
        added = parsed["added_tokens"]
        self._special = {str(token["content"]): int(token["id"]) for token in added}
        self._skippable = frozenset(int(token["id"]) for token in added if token["special"])
        # Without added tokens the library has nothing to look for in the text; its own switch for that
        # (`encode_special_tokens`) would still match the tool-call tokens, which are flagged special=false.
        self._plain = _library_tokenizer({**parsed, **_NEUTRAL})
        vocabulary: dict[str, int] = parsed["model"]["vocab"]
        to_byte = _byte_of_character()
        self._bytes: list[bytes] = [b""] * (len(vocabulary) + len(self._special))
        for text, i in vocabulary.items():
            self._bytes[i] = bytes(to_byte[character] for character in text)
        for text, i in self._special.items():
            self._bytes[i] = text.encode()
        self._part_digests = {name: _digest(part) for name, part in _parts(parsed).items()}
        self.digest: str = _digest(self._part_digests)
        """Identifies this tokenizer in shard headers: 32 hex digits over what tokenizer.json means."""

    @classmethod
    def load(cls, directory: Path, remedy: str | None = None) -> "K2Tokenizer":
        """Load from a directory with a tokenizer.json; UserError with `remedy` if it is missing or not a tokenizer."""
        path = directory / TOKENIZER
        try:
            return cls(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{path} does not exist: {remedy or remake(path)}.") from None
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            raise UserError(f"{path} is not a byte-level BPE tokenizer ({error}): {remedy or remake(path)}.") from None

    def differences(self, other: "K2Tokenizer") -> list[str]:
        """Return the names of the parts in which two tokenizers differ; none if their digests are equal."""
        return [name for name, digest in self._part_digests.items() if digest != other._part_digests[name]]

    @property
    def vocab_size(self) -> int:
        """The number of all ids, special ones included."""
        return len(self._bytes)

    @property
    def special_ids(self) -> dict[str, int]:
        """Each special token's string and its id."""
        return dict(self._special)

    def special(self, name: str) -> int:
        """Return the id of a special token such as `<|im_end|>`; KeyError if there is none of that name."""
        return self._special[name]

    @cached_property
    def eos_id(self) -> int:
        """The id of [EOS], which ends each document in the shards."""
        return self.special(EOS)

    @cached_property
    def im_end_id(self) -> int:
        """The id of <|im_end|>, which ends each turn: the stop id of a chat."""
        return self.special(IM_END)

    @cached_property
    def pad_id(self) -> int:
        """The id of [PAD], which pads a batch of examples."""
        return self.special(PAD)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, none of them special."""
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return `encode` of each text, using all cores."""
        return [e.ids for e in self._plain.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """Return the text of `ids`; invalid UTF-8 becomes U+FFFD. Tool-call tokens are never skipped, as released."""
        skip = self._skippable if skip_special_tokens else frozenset()
        return b"".join(self._bytes[i] for i in ids if i not in skip).decode("utf-8", errors="replace")

    def token_bytes(self, i: int) -> bytes:
        """Return the bytes that id `i` stands for (for a special token: its string)."""
        return self._bytes[i]

    @cached_property
    def byte_counts(self) -> NDArray[np.uint16]:
        """(vocab_size,) bytes of text that each id stands for, 0 for special ones; bits per byte divides by them."""
        special = set(self._special.values())
        return np.array([0 if i in special else len(b) for i, b in enumerate(self._bytes)], dtype=np.uint16)


def _library_tokenizer(parsed: dict[str, Any]) -> Tokenizer:
    try:
        return Tokenizer.from_str(json.dumps(parsed))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(str(error)) from None


class StreamDecoder:
    """Decodes id by id, for a REPL, holding back the bytes of a character that is not complete yet."""

    def __init__(self, tokenizer: K2Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, i: int) -> str:
        """Return the text that became complete with id `i`; it may be empty."""
        return self._utf8.decode(self._tokenizer.token_bytes(i))

    def finish(self) -> str:
        """Return what is left when no id follows: U+FFFD if a character was cut."""
        return self._utf8.decode(b"", final=True)
