"""The tokenizer: exact round trips, safe against special strings, equal to what transformers makes of the files."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from engine.errors import UserError
from engine.text import bpe
from engine.text.special import MIN_SPECIAL, TOOL_TOKENS, special_tokens
from engine.text.tokenizer import K2Tokenizer, StreamDecoder

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=80)
# The two engines ship different Unicode versions: compare on characters that have long been assigned.
ASSIGNED = st.text(st.characters(max_codepoint=0xD7FF, exclude_categories=("Cs", "Cn", "Co")), max_size=60)
SPECIALS = special_tokens(700, 20)


def test_vocabulary_ends_in_k2s_special_tokens_in_k2s_order(tokenizer: K2Tokenizer) -> None:
    assert tokenizer.vocab_size == 700
    assert [tokenizer.special(name) for name in SPECIALS] == list(range(680, 700))
    assert (tokenizer.eos_id, tokenizer.im_end_id, tokenizer.pad_id) == (681, 682, 699)


def test_special_table_gives_k2s_own_ids_at_k2s_size() -> None:
    names = special_tokens(163_840, 256)
    place = {name: 163_584 + i for i, name in enumerate(names)}
    released = {
        "[BOS]": 163584, "[EOS]": 163585, "<|im_end|>": 163586, "<|im_user|>": 163587, "<|im_assistant|>": 163588,
        "<|start_header_id|>": 163590, "<|end_header_id|>": 163591, "[EOT]": 163593, "<|im_system|>": 163594,
        "<|tool_calls_section_begin|>": 163595, "<|tool_calls_section_end|>": 163596, "<|tool_call_begin|>": 163597,
        "<|tool_call_argument_begin|>": 163598, "<|tool_call_end|>": 163599, "<|im_middle|>": 163601,
        "[UNK]": 163838, "[PAD]": 163839,
    }  # fmt: skip
    assert {name: place[name] for name in released} == released
    assert all(name == f"<|reserved_token_{i}|>" for name, i in place.items() if name not in released)
    assert len(set(names)) == 256


def test_too_few_special_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 20"):
        special_tokens(1000, MIN_SPECIAL - 1)


@given(TEXT)
def test_decode_is_the_inverse_of_encode(tokenizer: K2Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert int(tokenizer.byte_counts[ids].sum()) == len(text.encode())


@given(st.lists(st.one_of(st.sampled_from(SPECIALS), TEXT), max_size=6))
def test_special_strings_in_text_stay_text(tokenizer: K2Tokenizer, parts: list[str]) -> None:
    text = "".join(parts)
    ids = tokenizer.encode(text)
    assert not set(ids) & set(tokenizer.special_ids.values())
    assert tokenizer.decode(ids) == text


@given(TEXT.filter(lambda text: not any(name in text for name in SPECIALS)))
def test_transformers_reads_the_same_ids(hugging_face, tokenizer: K2Tokenizer, text: str) -> None:
    assert hugging_face(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text)


@pytest.fixture(scope="module")
def hugging_face(tokenizer_dir: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tokenizer_dir)


def test_transformers_knows_the_special_tokens(hugging_face, tokenizer: K2Tokenizer) -> None:
    assert len(hugging_face) == tokenizer.vocab_size
    assert (hugging_face.eos_token_id, hugging_face.pad_token_id) == (tokenizer.eos_id, tokenizer.pad_id)
    text = "".join(["a", *TOOL_TOKENS, "<|im_end|>"])
    ids = hugging_face(text, add_special_tokens=False)["input_ids"]
    assert ids[1:] == [tokenizer.special(name) for name in (*TOOL_TOKENS, "<|im_end|>")]
    for decode in (hugging_face.decode, tokenizer.decode):
        assert decode(ids, skip_special_tokens=True) == "a" + "".join(TOOL_TOKENS)


def _with_regex_module(max_digits: int) -> "regex.Pattern[str]":
    pattern = bpe.split_pattern(max_digits).replace("&&[^\\p{Han}]]", "--\\p{Han}]")
    return regex.compile(pattern, regex.V1)


@pytest.mark.parametrize("max_digits", [1, 3])
@given(text=st.one_of(ASSIGNED, st.text("aB'sRe 19\n\r\t中é.,", max_size=60)))
def test_pre_tokenizer_agrees_with_another_regex_engine(max_digits: int, text: str) -> None:
    split = pre_tokenizers.Split(Regex(bpe.split_pattern(max_digits)), behavior="isolated")
    assert [piece for piece, _ in split.pre_tokenize_str(text)] == [
        match.group() for match in _with_regex_module(max_digits).finditer(text)
    ]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("中文English混合", ["中文", "English", "混合"]),
        ("don't HTTPServer's", ["don't", " HTTPServer's"]),
        ("camelCase", ["camel", "Case"]),
        ("x=12345;\n\n  y", ["x", "=", "123", "45", ";\n\n", " ", " y"]),
        ("a  \n b", ["a", "  \n", " b"]),
    ],
)
def test_pre_tokenizer_rules(text: str, pieces: list[str]) -> None:
    assert _with_regex_module(3).findall(text) == pieces


def test_digits_stand_alone_on_the_laptop(tokenizer: K2Tokenizer) -> None:
    assert [tokenizer.decode([i]) for i in tokenizer.encode("1234")] == ["1", "2", "3", "4"]


@given(TEXT)
def test_stream_decoder_gives_the_whole_text(tokenizer: K2Tokenizer, text: str) -> None:
    stream = StreamDecoder(tokenizer)
    pushed = [stream.push(i) for i in tokenizer.encode(text)]
    assert "".join(pushed) + stream.finish() == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pushed)


def test_stream_decoder_marks_a_cut_character(tokenizer: K2Tokenizer) -> None:
    first = tokenizer.encode("😀")[:1]
    stream = StreamDecoder(tokenizer)
    assert stream.push(first[0]) + stream.finish() == "\ufffd"


def test_encode_batch_equals_encode(tokenizer: K2Tokenizer) -> None:
    texts = ["def f(x):", "", "é 中文", "<|im_end|>"]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


def test_byte_counts_are_zero_for_special_tokens(tokenizer: K2Tokenizer) -> None:
    assert tokenizer.byte_counts.dtype == np.uint16
    assert not tokenizer.byte_counts[680:].any()
    assert (tokenizer.byte_counts[:680] > 0).all()


def test_training_again_in_another_process_gives_the_same_file(tokenizer_dir: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]); from conftest import texts;"
        "from engine.text import bpe; bpe.save(bpe.train(texts(), 700, 20, 1), Path(sys.argv[1]), 512)"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), str(Path(__file__).parents[1])],
        check=True,
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[3]), "RAYON_NUM_THREADS": "1"},
    )
    for path in tokenizer_dir.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_too_little_text_for_the_vocabulary_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"vocab_size is 5000, but the training text supports only \d+"):
        bpe.train(["a small text"], 5000, 20, 1)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        '{"model": {}}',
        "[]",
        "[" * 100_000,
        '{"added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}}',
        '{"added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 9}, "merges": []}}',
        '{"added_tokens": [], "model": {"type": "Unigram", "vocab": [["a", 0.0]], "merges": [], "unk_id": 0}}',
    ],
    ids=lambda content: content[:20] + content[-20:],
)
def test_damaged_tokenizer_file_is_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=re.escape(str(tmp_path))):
        K2Tokenizer.load(tmp_path)


def test_missing_tokenizer_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="make it again, or name another directory"):
        K2Tokenizer.load(tmp_path)


def _rewritten(parsed: dict[str, Any]) -> dict[str, str]:
    """The same tokenizer as other software writes it."""
    model = parsed["model"]
    pairs = {**model, "merges": [" ".join(pair) for pair in model["merges"]], "unk_token": "", "byte_fallback": None}
    single = [{"Sequence": {"id": "A", "type_id": 0}}]
    adding = {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": {}}
    cutting = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    return {
        "in one line": json.dumps(parsed),
        "keys and tokens in another order": json.dumps(
            {**dict(reversed(parsed.items())), "added_tokens": parsed["added_tokens"][::-1]}, indent=4
        ),
        "merges as strings": json.dumps({**parsed, "model": pairs}),
        "a post-processor that adds nothing": json.dumps({**parsed, "post_processor": adding}),
        "texts cut at a length": json.dumps({**parsed, "truncation": cutting}),
    }


def test_a_rewritten_tokenizer_is_the_same(tokenizer_dir: Path, tokenizer: K2Tokenizer) -> None:
    for how, text in _rewritten(json.loads((tokenizer_dir / "tokenizer.json").read_text())).items():
        other = K2Tokenizer(text)
        assert (how, other.digest) == (how, tokenizer.digest)
        assert other.differences(tokenizer) == []
        assert other.encode("Hello world, 12345") == tokenizer.encode("Hello world, 12345")


def test_what_transformers_saves_is_the_same_tokenizer(
    tokenizer_dir: Path, tokenizer: K2Tokenizer, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(tokenizer_dir)
    theirs(["a text", "a longer text"], padding=True, truncation=True, max_length=3)
    theirs.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() != (tokenizer_dir / "tokenizer.json").read_bytes()
    assert K2Tokenizer.load(tmp_path).digest == tokenizer.digest


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("vocabulary", lambda p: p["model"]["vocab"].update({"Ġ": p["model"]["vocab"]["!"], "!": 100})),
        ("merges", lambda p: p["model"]["merges"].insert(0, p["model"]["merges"].pop(1))),
        ("model", lambda p: p["model"].update({"ignore_merges": True})),
        ("normalizer", lambda p: p.update({"normalizer": {"type": "NFC"}})),
        ("pre_tokenizer", lambda p: p["pre_tokenizer"]["pretokenizers"].pop(0)),
        ("special tokens", lambda p: p["added_tokens"][0].update({"content": "<s>"})),
        ("special tokens", lambda p: p["added_tokens"][0].update({"special": False})),
    ],
)
def test_another_tokenizer_is_named_by_the_part_that_differs(
    tokenizer_dir: Path, tokenizer: K2Tokenizer, part: str, change: Any
) -> None:
    parsed = json.loads((tokenizer_dir / "tokenizer.json").read_text())
    change(parsed)
    other = K2Tokenizer(json.dumps(parsed))
    assert other.digest != tokenizer.digest
    assert other.differences(tokenizer) == [part]
