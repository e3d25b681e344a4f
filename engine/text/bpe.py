"""Train the byte-level BPE with K2's pre-tokenizer and write it in Hugging Face's file format."""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from engine.errors import UserError
from engine.text.chat import TEMPLATE
from engine.text.special import BOS, EOS, PAD, TOOL_TOKENS, UNK, special_tokens

_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
_LEAD = r"[^\r\n\p{L}\p{N}]?"
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"


def split_pattern(max_digits: int) -> str:
    r"""Return K2's pre-tokenizer as one regular expression (k2-facts 8.2); `max_digits` is 3 in K2.

    In order: a run of Han; a word ending in lower case; a word beginning in upper case (either may take one leading
    character that is no letter, digit or newline, and an English contraction); digits; punctuation with the newlines
    after it; white space that ends in newlines; trailing white space; other white space.
    """
    return "|".join(
        (
            r"\p{Han}+",
            f"{_LEAD}{_UPPER}*{_LOWER}+{_CONTRACTION}",
            f"{_LEAD}{_UPPER}+{_LOWER}*{_CONTRACTION}",
            rf"\p{{N}}{{1,{max_digits}}}",
            r" ?[^\s\p{L}\p{N}]+[\r\n]*",
            r"\s*[\r\n]+",
            r"\s+(?!\S)",
            r"\s+",
        )
    )


def train(texts: Iterable[str], vocab_size: int, n_special: int, max_digits: int) -> Tokenizer:
    """Learn a byte-level BPE of exactly `vocab_size` ids, of which the last `n_special` are special.

    Raises UserError if the texts hold too few distinct pairs for that many merges.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split_pattern(max_digits)), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    n_base = vocab_size - n_special
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=n_base, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(texts, trainer)
    if bpe.get_vocab_size() != n_base:
        raise UserError(
            f"tokenization.vocab_size is {vocab_size}, but the training text supports only "
            f"{bpe.get_vocab_size() + n_special} ids: lower vocab_size or raise train_bytes."
        )
    names = special_tokens(vocab_size, n_special)
    # One call, so that ids follow the table's order whatever each token's flag is.
    bpe.add_tokens([AddedToken(name, special=name not in TOOL_TOKENS, normalized=False) for name in names])
    return bpe


def save(bpe: Tokenizer, directory: Path, context_length: int) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja, which transformers loads as they are."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.json").write_text(bpe.to_str(pretty=True), encoding="utf-8")
    (directory / "chat_template.jinja").write_text(TEMPLATE.read_text(encoding="utf-8"), encoding="utf-8")
    added = {
        str(i): {
            "content": token.content,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": token.special,
        }
        for i, token in sorted(bpe.get_added_tokens_decoder().items())
    }
    config = {
        "added_tokens_decoder": added,
        "bos_token": BOS,
        "clean_up_tokenization_spaces": False,
        "eos_token": EOS,
        "model_max_length": context_length,
        "pad_token": PAD,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": UNK,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
