"""K2Tokenizer: text to ids and back, safe against special strings in the text, without transformers."""

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
    """GPT-2's reversible map: each byte has a printable character, in which BPE token strings are written."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in set(printable)]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


_NEUTRAL: Final[dict[str, Any]] = {"added_tokens": [], "truncation": None, "padding": None, "post_processor": None}
"""What `encode` leaves out of a tokenizer.json: special tokens, and what other software adds or cuts around a text."""


def _parts(parsed: dict[str, Any]) -> dict[str, Any]:
    """Return what decides which ids a text gets and what they mean, however the file was written.

    A library's other version, or transformers' save_pretrained, writes the same tokenizer with other white space,
    merges as "a b" for ["a", "b"], and a post-processor that does nothing.
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
    """Byte-level BPE with K2's special tokens.

    `encode` never yields a special id: a user who types `<|im_end|>` gets its characters, so text cannot close a turn
    or open a tool call. Only `engine.text.chat` places special ids. `decode` is exact on bytes.
    """

    def __init__(self, definition: str) -> None:
        """Take the text of a tokenizer.json."""
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
        """Names this tokenizer in shard headers: 32 hexadecimal digits over what tokenizer.json means."""

    @classmethod
    def load(cls, directory: Path, remedy: str | None = None) -> "K2Tokenizer":
        """Load from a directory holding tokenizer.json; UserError with `remedy` if it is missing or no such file."""
        path = directory / TOKENIZER
        try:
            return cls(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{path} does not exist: {remedy or remake(path)}.") from None
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            raise UserError(f"{path} is not a byte-level BPE tokenizer ({error}): {remedy or remake(path)}.") from None

    def differences(self, other: "K2Tokenizer") -> list[str]:
        """Return in which parts two tokenizers differ; none if their digests are the same."""
        return [name for name, digest in self._part_digests.items() if digest != other._part_digests[name]]

    @property
    def vocab_size(self) -> int:
        """All ids, special ones included."""
        return len(self._bytes)

    @property
    def special_ids(self) -> dict[str, int]:
        """Special token string to id."""
        return dict(self._special)

    def special(self, name: str) -> int:
        """The id of a special token such as `<|im_end|>`; KeyError if there is none of that name."""
        return self._special[name]

    @cached_property
    def eos_id(self) -> int:
        """[EOS], which ends each document in the shards."""
        return self.special(EOS)

    @cached_property
    def im_end_id(self) -> int:
        """<|im_end|>, which ends each turn: the stop id of a chat."""
        return self.special(IM_END)

    @cached_property
    def pad_id(self) -> int:
        """[PAD], for padding a batch of examples."""
        return self.special(PAD)

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, none of them special."""
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, on all cores."""
        return [e.ids for e in self._plain.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """Text of `ids`; bytes that are no UTF-8 become U+FFFD. Tool-call tokens are never skipped, as released."""
        skip = self._skippable if skip_special_tokens else frozenset()
        return b"".join(self._bytes[i] for i in ids if i not in skip).decode("utf-8", errors="replace")

    def token_bytes(self, i: int) -> bytes:
        """The bytes that id `i` stands for (a special token: its string)."""
        return self._bytes[i]

    @cached_property
    def byte_counts(self) -> NDArray[np.uint16]:
        """(vocab_size,) bytes of text each id stands for, 0 for special ones: what bits per byte divides by."""
        special = set(self._special.values())
        return np.array([0 if i in special else len(b) for i, b in enumerate(self._bytes)], dtype=np.uint16)


def _library_tokenizer(parsed: dict[str, Any]) -> Tokenizer:
    try:
        return Tokenizer.from_str(json.dumps(parsed))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(str(error)) from None


class StreamDecoder:
    """Decodes id by id, for a REPL: holds back the bytes of a character that is not complete yet."""

    def __init__(self, tokenizer: K2Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, i: int) -> str:
        """The text that became complete with id `i`; may be empty."""
        return self._utf8.decode(self._tokenizer.token_bytes(i))

    def finish(self) -> str:
        """What is left when no id follows: U+FFFD if a character was cut."""
        return self._utf8.decode(b"", final=True)
