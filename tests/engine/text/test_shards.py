"""Shards: what is written is read back; batches are pure; damage and foreign files are named."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import UserError
from engine.text.shard_writer import Entry, ShardWriter, token_dtype
from engine.text.shards import HEADER, INDEX, TokenShards, TokenStream
from engine.text.tokenizer import K2Tokenizer

LAYOUT = [  # split, domain, kind, documents, copies
    ("train", "code", "natural", 40, 1),
    ("train", "rewrites", "synthetic", 7, 3),
    ("train", "web", "natural", 25, 2),
    ("validation", "web", "natural", 6, 1),
    ("validation", "trajectories", "synthetic", 4, 1),
    ("test", "web", "natural", 1, 1),
]


def entries(domain: str, documents: int, copies: int, tokenizer: K2Tokenizer) -> Iterator[Entry]:
    for copy in range(copies):
        for i in range(documents):
            text = f"document {i} of {domain} " * (1 + i * 7 % 5)
            ids = [*tokenizer.encode(text), tokenizer.eos_id]
            yield Entry(f"{domain}{i}", domain, copy, len(text.encode()), np.array(ids))


def write(directory: Path, tokenizer: K2Tokenizer, shard_tokens: int = 300) -> Path:
    writer = ShardWriter(directory, tokenizer, shard_tokens)
    for split, domain, kind, documents, copies in LAYOUT:
        writer.write(split, domain, kind, entries(domain, documents, copies, tokenizer))
    writer.close({"seed": 1})
    return directory


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, tokenizer: K2Tokenizer) -> Path:
    return write(tmp_path_factory.mktemp("shards"), tokenizer)


@pytest.fixture(scope="module")
def train(directory: Path) -> TokenStream:
    return TokenShards.open(directory).split("train")


@pytest.fixture
def fresh(tmp_path: Path, tokenizer: K2Tokenizer) -> Path:
    return write(tmp_path / "shards", tokenizer)


# ----------------------------------------------------------------------------------------------------- contents


def test_documents_come_back_once_and_whole(directory: Path, tokenizer: K2Tokenizer) -> None:
    for split, domain, kind, documents, _ in LAYOUT:
        stream = TokenShards.open(directory, tokenizer).split(split)
        expected = {e.id: e.tokens.tolist() for e in entries(domain, documents, 1, tokenizer)}
        got = list(stream.documents(domain))
        assert {d.id: d.tokens.tolist() for d in got} == expected
        assert {(d.domain, d.kind) for d in got} == {(domain, kind)}


def test_documents_can_be_chosen_by_length(train: TokenStream) -> None:
    every = [len(d.tokens) for d in train.documents()]
    assert [len(d.tokens) for d in train.documents(min_tokens=40)] == [n for n in every if n >= 40]


def test_index_names_every_copy(directory: Path) -> None:
    index = pl.read_parquet(directory / "index.parquet")
    assert index.columns == list(INDEX)
    assert index.height == sum(documents * copies for *_, documents, copies in LAYOUT)


def test_runs_leave_repeated_copies_out(train: TokenStream) -> None:
    once = np.concatenate([d.tokens for d in train.documents()])
    assert np.concatenate(train.runs()).tolist() == once.tolist()
    assert sum(map(len, train.runs(kinds=["synthetic"]))) * 3 == sum(len(s.tokens) for s in train.choose(["rewrites"]))


def test_bytes_per_token_counts_the_text(train: TokenStream, tokenizer: K2Tokenizer) -> None:
    tokens = np.concatenate([s.tokens for s in train.shards])
    assert train.n_tokens == len(tokens)
    assert train.bytes_per_token == tokenizer.byte_counts[tokens].sum() / len(tokens)


def test_ids_are_as_narrow_as_the_vocabulary_allows() -> None:
    assert token_dtype(1 << 16) is np.uint16
    assert token_dtype((1 << 16) + 1) is np.uint32


# ------------------------------------------------------------------------------------------------------ batches


def windows_of_an_epoch(stream: TokenStream, seq_len: int) -> int:
    """Return how many windows of seq_len + 1 tokens, each sharing one with the next, the shards hold."""
    return sum((len(shard.tokens) - 1) // seq_len for shard in stream.shards)


@settings(max_examples=40)
@given(step=st.integers(0, 500), size=st.integers(1, 8), seq_len=st.integers(1, 60), seed=st.integers(0, 3))
def test_a_batch_does_not_depend_on_how_steps_are_cut(
    train: TokenStream, step: int, size: int, seq_len: int, seed: int
) -> None:
    whole = train.batch(step, size, seq_len, seed)
    rows = [train.batch(step * size + i, 1, seq_len, seed) for i in range(size)]
    assert whole.shape == (size, seq_len + 1)
    assert whole.dtype == np.int64
    assert (whole == np.concatenate(rows)).all()


@settings(max_examples=20)
@given(seq_len=st.integers(2, 60), epoch=st.integers(0, 3), seed=st.integers(0, 3))
def test_an_epoch_reads_no_token_twice(train: TokenStream, seq_len: int, epoch: int, seed: int) -> None:
    total = windows_of_an_epoch(train, seq_len)
    targets = np.bincount(train.batch(epoch, total, seq_len, seed)[:, 1:].ravel(), minlength=700)
    there = np.bincount(np.concatenate([s.tokens for s in train.shards]), minlength=700)
    assert (targets <= there).all()
    assert train.n_tokens - targets.sum() <= len(train.shards) * seq_len


def test_every_row_is_a_stretch_of_one_shard(train: TokenStream) -> None:
    texts = [s.tokens.astype(np.uint16).tobytes() for s in train.shards]
    for row in train.batch(3, 32, 20, 1):
        assert any(row.astype(np.uint16).tobytes() in text for text in texts)


def test_epochs_and_seeds_differ(train: TokenStream) -> None:
    total = windows_of_an_epoch(train, 20)
    first = train.batch(0, total, 20, 1)
    assert (first != train.batch(1, total, 20, 1)).any()
    assert (first != train.batch(0, total, 20, 2)).any()


def test_domains_and_kinds_filter_exactly(train: TokenStream, tokenizer: K2Tokenizer) -> None:
    text = tokenizer.decode(train.batch(0, 40, 30, 1, domains=["code"]).ravel().tolist())
    assert "web" not in text
    assert "rewrites" not in text
    natural = train.batch(0, 40, 30, 1, kinds=["natural"])
    assert (natural == train.batch(0, 40, 30, 1, domains=["web", "code"])).all()
    assert (natural == train.batch(0, 40, 30, 1, domains=["code", "web"])).all()


# --------------------------------------------------------------------------------------------------- evaluation


def test_eval_windows_cover_each_target_once(directory: Path, tokenizer: K2Tokenizer) -> None:
    shards = TokenShards.open(directory)
    windows = shards.eval_windows("validation", 10, ["natural"])
    stretch = np.concatenate([windows.tokens[:, 1:].ravel()])
    tokens = shards.split("validation").choose(["web"])[0].tokens
    assert stretch.tolist() == tokens[1 : 1 + len(stretch)].tolist()
    assert windows.n_bytes.sum() == tokenizer.byte_counts[stretch].sum()
    assert set(windows.domains) == {"web"}


def test_a_limit_spreads_the_windows_evenly(train: TokenStream) -> None:
    every = train.eval_windows(10)
    some = train.eval_windows(10, limit=9)
    assert len(some.tokens) == 9
    assert set(map(tuple, some.tokens.tolist())) <= set(map(tuple, every.tokens.tolist()))
    assert set(some.domains) == set(every.domains)
    assert len(train.eval_windows(10, limit=10**6).tokens) == len(every.tokens)


@pytest.mark.parametrize("split", ["validation", "train"])
def test_each_target_of_a_window_has_its_document(directory: Path, tokenizer: K2Tokenizer, split: str) -> None:
    stream = TokenShards.open(directory).split(split)
    windows = stream.eval_windows(10, limit=200)
    targets = stream.owners(windows)
    assert targets.documents.shape == targets.n_bytes.shape == windows.tokens[:, 1:].shape
    assert (targets.n_bytes.sum(1) == windows.n_bytes).all()
    index = pl.read_parquet(directory / "index.parquet")
    numbers: dict[str, int] = {}
    for row, (file, first) in zip(targets.documents.tolist(), windows.places, strict=True):
        for place, number in enumerate(row, first + 1):
            held = index.filter(
                pl.col("shard") == file, pl.col("offset") <= place, place < pl.col("offset") + pl.col("length")
            )
            assert numbers.setdefault(held["id"].item(), number) == number
    assert sorted(numbers.values()) == list(range(len(numbers)))
    assert len(numbers) > 1
    ones = np.ones(targets.documents.shape)
    assert targets.totals(ones).tolist() == np.unique(targets.documents, return_counts=True)[1].tolist()


# ---------------------------------------------------------------------------------------------------- bad input


def test_a_split_too_short_for_a_window_is_one_sentence(directory: Path) -> None:
    stream = TokenShards.open(directory).split("test")
    with pytest.raises(UserError, match=r"split 'test' is too short for one window of seq_len 5000 \+ 1"):
        stream.batch(0, 1, 5000, 1)
    with pytest.raises(UserError, match="too short"):
        stream.eval_windows(5000)


def test_an_unknown_split_domain_or_kind_is_one_sentence(directory: Path, train: TokenStream) -> None:
    with pytest.raises(UserError, match="has no split 'dev', only test, train, validation"):
        TokenShards.open(directory).split("dev")
    with pytest.raises(UserError, match="split 'train' has no poetry, only code, rewrites, web"):
        train.batch(0, 1, 10, 1, domains=["poetry"])
    with pytest.raises(UserError, match="has no fake"):
        train.batch(0, 1, 10, 1, kinds=["fake"])


def test_a_foreign_tokenizer_is_refused(directory: Path, tokenizer_dir: Path) -> None:
    parsed = json.loads((tokenizer_dir / "tokenizer.json").read_text())
    TokenShards.open(directory, K2Tokenizer(json.dumps(parsed)))
    parsed["model"]["merges"].reverse()
    with pytest.raises(UserError, match="names tokenizer"):
        TokenShards.open(directory, K2Tokenizer(json.dumps(parsed)))


@pytest.mark.parametrize("cut", [1, 2, 100])
def test_a_truncated_shard_is_refused(fresh: Path, cut: int) -> None:
    path = fresh / "train-code-00000.bin"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(UserError, match=r"train-code-00000\.bin is truncated"):
        TokenShards.open(fresh)


@pytest.mark.parametrize("content", [b"", b"K2SHARD\0", bytes(HEADER.size), b"something else" * 20])
def test_a_file_that_is_no_shard_is_refused(fresh: Path, content: bytes) -> None:
    (fresh / "train-web-00000.bin").write_bytes(content)
    with pytest.raises(UserError, match="is not a token shard"):
        TokenShards.open(fresh)


def test_a_shard_of_another_tokenizer_is_refused(fresh: Path) -> None:
    path = fresh / "train-web-00000.bin"
    magic, version, width, count, _ = HEADER.unpack(path.read_bytes()[: HEADER.size])
    path.write_bytes(HEADER.pack(magic, version, width, count, b"0" * 32) + path.read_bytes()[HEADER.size :])
    with pytest.raises(UserError, match="written with another tokenizer"):
        TokenShards.open(fresh)


def test_another_format_is_refused(fresh: Path) -> None:
    path = fresh / "train-web-00000.bin"
    magic, _, *rest = HEADER.unpack(path.read_bytes()[: HEADER.size])
    path.write_bytes(HEADER.pack(magic, 99, *rest) + path.read_bytes()[HEADER.size :])
    with pytest.raises(UserError, match="format 99"):
        TokenShards.open(fresh)
    card = json.loads((fresh / "mixture.json").read_text())
    (fresh / "mixture.json").write_text(json.dumps({**card, "format": 0}))
    with pytest.raises(UserError, match="format 0"):
        TokenShards.open(fresh)


@pytest.mark.parametrize("name", ["mixture.json", "token_bytes.npy", "train-code-00000.bin"])
def test_a_missing_file_is_named(fresh: Path, name: str) -> None:
    (fresh / name).unlink()
    with pytest.raises(UserError, match=name):
        TokenShards.open(fresh)


def test_damaged_mixture_is_one_sentence(fresh: Path) -> None:
    (fresh / "mixture.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        TokenShards.open(fresh)
