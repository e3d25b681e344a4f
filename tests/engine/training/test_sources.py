"""Sources: a rank reads its own rows of the shards and nothing else; however many ranks, a step has the same tokens."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from engine.parallel.data import Ranks
from engine.text.shards import TokenShards, TokenStream
from engine.text.tokenizer import K2Tokenizer
from engine.training.examples import Encoded
from engine.training.natural import NaturalText
from engine.training.padded import COUNTED, IDS, TOTAL, VALID, kinds_of
from engine.training.sources import Examples, Windows
from tests.nodes import text

BATCH, LENGTH, SEED, STEPS = 12, 16, 3, 40


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return text.make(tmp_path_factory.mktemp("shards"))


class Traced:
    """A shard's tokens that note which of them are read."""

    def __init__(self, tokens: Any, file: str, reads: list[tuple[str, int]]) -> None:
        self.tokens, self.file, self.reads = tokens, file, reads

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, where: slice) -> Any:
        assert isinstance(where, slice)
        self.reads.extend((self.file, place) for place in range(len(self.tokens))[where])
        return self.tokens[where]


def traced(stream: TokenStream) -> tuple[TokenStream, list[tuple[str, int]]]:
    """The stream, and the list of tokens that will have been read of it."""
    from dataclasses import replace

    reads: list[tuple[str, int]] = []
    shards = [replace(shard, tokens=Traced(shard.tokens, shard.file, reads)) for shard in stream.shards]
    return TokenStream(stream.directory, stream.name, shards, stream._byte_counts, stream.n_bytes), reads


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_rank_reads_its_own_windows_and_nothing_else(made: Any, size: int) -> None:
    whole = TokenShards.open(made[1]).split("train")
    for step in (0, 7, STEPS):
        expected = whole.batch(step, BATCH, LENGTH, SEED)
        read, seen = [], []
        for rank in range(size):
            stream, reads = traced(whole)
            seen.append(Windows(stream, BATCH, LENGTH, SEED).rows(step, Ranks(rank, size))["ids"].numpy())
            tokens = {shard.file: shard.tokens for shard in whole.shards}
            assert [int(tokens[file][place]) for file, place in reads] == seen[-1].ravel().tolist()
            read += reads
        assert np.array_equal(np.concatenate(seen), expected)
        alone, of_one = traced(whole)
        Windows(alone, BATCH, LENGTH, SEED).rows(step, Ranks(0, 1))
        assert Counter(read) == Counter(of_one), "the same tokens, each as often"


class TracedRows:
    """A kind's examples, which note which of them are read."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows, self.reads = rows, []

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> Any:
        self.reads.append(place)
        return self.rows[place]


def examples() -> dict[str, list[Any]]:
    """Examples of unequal length, each with tokens of its own, some of them counted."""
    chance = np.random.default_rng(1)
    lengths = chance.integers(2, 9, 30).tolist()
    rows = [([i * 10 + j for j in range(n)], [False, *(chance.random(n - 1) < 0.7).tolist()]) for i, n in
            enumerate(lengths)]  # fmt: skip
    return {"chat": rows[:20], "trajectory": rows[20:]}


SIZES = {"chat": 7, "trajectory": 2}


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_rank_reads_its_own_examples_and_all_know_the_steps_totals(made: Any, size: int) -> None:
    natural = NaturalText(made[1], K2Tokenizer.load(made[0]), 3, LENGTH, SEED)
    for step in (0, 5, STEPS):
        whole = Examples(Encoded(examples(), 0), SIZES, SEED, natural).rows(step, Ranks(0, 1))
        shares, read = [], Counter()
        for rank in range(size):
            source = Examples(Encoded(examples(), 0), SIZES, SEED, natural)
            kinds = {kind: TracedRows(rows) for kind, rows in examples().items()}
            source.encoded = Encoded(kinds, 0)  # type: ignore[arg-type] - the lengths are known by now
            shares.append(source.rows(step, Ranks(rank, size)))
            for kind, rows in kinds.items():
                ids = shares[-1][f"{kind}/{IDS}"], shares[-1][f"{kind}/{VALID}"]
                assert [rows.rows[place][0] for place in rows.reads] == [
                    row[valid].tolist() for row, valid in zip(*ids, strict=True)
                ]
                read.update((kind, place) for place in rows.reads)
        assert read.total() == sum(SIZES.values())
        for kind in kinds_of(whole):
            parts = [(share[f"{kind}/{IDS}"], share[f"{kind}/{COUNTED}"], share[f"{kind}/{VALID}"]) for share in shares]
            tokens = [(int(i), bool(c)) for part in parts for i, c in zip(part[0][part[2]], part[1][part[2]])]
            valid = whole[f"{kind}/{VALID}"]
            assert tokens == [
                (int(i), bool(c)) for i, c in zip(whole[f"{kind}/{IDS}"][valid], whole[f"{kind}/{COUNTED}"][valid])
            ], "the same tokens in the same order"
            counted = sum(int(part[1][:, 1:].sum()) for part in parts)
            assert {float(share[f"{kind}/{TOTAL}"]) for share in shares} == {float(counted)}
