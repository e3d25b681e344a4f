"""Check whether a checkpoint and a tokenizer belong together, by what the tokenizer does, not by its file format."""

import json
from pathlib import Path
from typing import Any, NoReturn

from engine.errors import UserError
from engine.text.chat import TEMPLATE
from engine.text.tokenizer import K2Tokenizer

TOKENIZER_SETTINGS = "tokenizer_config.json"
TIKTOKEN = "tiktoken.model"


def check_tokenizer(vocab_size: int, extra: dict[str, Any], tok: K2Tokenizer, source: str) -> None:
    """Refuse a checkpoint that names another tokenizer, or has no row for some of this one's ids."""
    named = extra.get("tokenizer", tok.digest)
    if named != tok.digest:
        _refuse_tokenizer(source, named, tok, "")
    if vocab_size < tok.vocab_size:
        raise UserError(
            f"{source}: vocab_size is {vocab_size}, but the tokenizer has {tok.vocab_size} ids; they belong to "
            "different models"
        )


def check_own_tokenizer(source: Path, tok: K2Tokenizer) -> None:
    """Refuse a checkpoint whose own tokenizer or chat template differs in meaning from ours.

    Raises UserError naming the parts that differ, or the file that is missing.
    """
    own = K2Tokenizer.load(source, "give the checkpoint's directory with its tokenizer.json" + _other_formats(source))
    if differing := own.differences(tok):
        _refuse_tokenizer(str(source), own.digest, tok, f" (another {', '.join(differing)})")
    template = own_template(source)
    if template is not None and _lines(template) != _lines(TEMPLATE.read_text(encoding="utf-8")):
        raise UserError(
            f"{source} has another chat template than {TEMPLATE.name} here, so its chats look different; if "
            f"that does not matter, take {TEMPLATE.name} (or chat_template in tokenizer_config.json) out of it"
        )


def own_template(source: Path) -> str | None:
    """Return the chat template that transformers would use for a directory, in either place, or None."""
    file, settings = source / TEMPLATE.name, source / TOKENIZER_SETTINGS
    if file.is_file():
        return file.read_text(encoding="utf-8", errors="replace")
    try:
        given = json.loads(settings.read_bytes()).get("chat_template") if settings.is_file() else None
    except (ValueError, AttributeError, RecursionError):
        raise UserError(f"{settings} is not a JSON object; take it out, or copy the checkpoint again") from None
    if isinstance(given, list):  # several by name
        given = {entry["name"]: entry["template"] for entry in given if isinstance(entry, dict)}.get("default")
    return None if given is None else str(given)


def _lines(template: str) -> list[str]:
    """Return a template's lines without indentation, since the template itself says which white space counts."""
    return [line.strip() for line in template.splitlines() if line.strip()]


def _other_formats(source: Path) -> str:
    """Return what to do if the tokenizer is there in another format."""
    if not (source / TIKTOKEN).is_file():
        return ""
    return f"; {TIKTOKEN} alone is not read, so write it as tokenizer.json, as transformers' TikTokenConverter does"


def _refuse_tokenizer(source: str, named: str, tok: K2Tokenizer, how: str) -> NoReturn:
    raise UserError(
        f"{source} was trained with tokenizer {named}{how}, but the one given is {tok.digest}; "
        "take the checkpoint's own"
    )
