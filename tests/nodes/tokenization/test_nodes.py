"""The stage on small tables: splits kept apart, the mixture as asked, resumable, byte-identical."""

import hashlib
import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from pydantic import ValidationError

from engine.errors import UserError
from engine.text.chat import encode_chat
from engine.text.dialogue import read_dialogue
from engine.text.permutation import key
from engine.text.shards import TokenShards
from engine.text.tokenizer import K2Tokenizer
from nodes.tokenization import sources
from nodes.tokenization.nodes import train_tokenizer, write_shards
from nodes.tokenization.schema import MIN_SPECIAL, Parameters
from tests.nodes.sharded import assert_shards_do_not_matter

ROOT = Path(__file__).parents[3]
DOMAINS = ("web", "code", "maths", "knowledge")
STDLIB = Path(sysconfig.get_paths()["stdlib"])
P: dict[str, Any] = {
    "seed": 1,
    "vocab_size": 600,
    "special_tokens": 20,
    "max_digits": 1,
    "train_bytes": 60_000,
    "context_length": 512,
    "weights": {"web": 2.0, "code": 1.0, "maths": 1.0, "knowledge": 0.0, "rewrites": 1.0, "trajectories": 1.0},
    "train_tokens": 20_000,
    "max_epochs": 3,
    "eval_tokens": 4_000,
    "shard_tokens": 6_000,
    "chunk_documents": 16,
}
Tables = tuple[pl.LazyFrame, pl.LazyFrame, pl.LazyFrame]


def texts() -> list[str]:
    source = "".join((STDLIB / name).read_text() for name in ("argparse.py", "ast.py", "bdb.py"))
    return [source[i : i + 1500] for i in range(0, len(source), 1500)]


def trajectory(i: int) -> tuple[str, ...]:
    call = {"id": f"call_{i}", "type": "function", "function": {"name": "get_weather", "arguments": f'{{"n": {i}}}'}}
    messages = [
        {"role": "user", "content": f"What is the weather in city {i}? <|im_end|>"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "name": "get_weather", "tool_call_id": f"call_{i}", "content": "4 degrees"},
        {"role": "assistant", "content": "It has 4 degrees."},
    ]
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
    split = ("train", "train", "validation", "test")[i % 4]
    return f"t{i}", "travel", split, json.dumps(messages), json.dumps([tool])


@pytest.fixture(scope="module")
def tables() -> Tables:
    documents = []
    for i, text in enumerate(texts()):
        split = "validation" if i % 8 == 6 else "test" if i % 8 == 7 else "train"
        body = f"{split} document {i}\n{text}"
        id_ = hashlib.blake2b(body.encode(), digest_size=8).hexdigest()
        documents.append((id_, DOMAINS[i // 8 % 4], body, split))
    train = [row for row in documents if row[3] == "train"]
    rewrites = [(f"r{row[0]}", row[0], row[1], f"In other words: {row[2][:400]}") for row in train]
    return (
        pl.LazyFrame(documents, schema=["id", "domain", "text", "split"], orient="row"),
        pl.LazyFrame(rewrites, schema=["id", "source_id", "domain", "text"], orient="row"),
        pl.LazyFrame(
            [trajectory(i) for i in range(40)], schema=["id", "domain", "split", "messages", "tools"], orient="row"
        ),
    )


def run(tables: Tables, workspace: Path, **changes: Any) -> tuple[Path, Path, dict[str, Any]]:
    parameters = {**P, **changes}
    workspace.mkdir(exist_ok=True)
    tokenizer = train_tokenizer(*tables, parameters, workspace)
    shards, metrics = write_shards(tokenizer, *tables, parameters, workspace)
    return tokenizer, shards, metrics


@pytest.fixture(scope="module")
def made(tables: Tables, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    return run(tables, tmp_path_factory.mktemp("made"))


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def test_held_out_documents_never_enter_the_training_stream(made: Any, tables: Tables) -> None:
    split_of = dict(tables[0].select("id", "split").collect().iter_rows())
    split_of |= dict(tables[2].select("id", "split").collect().iter_rows())
    index = pl.read_parquet(made[1] / "index.parquet")
    assert index.height > 0
    for id_, split in index.select("id", "split").iter_rows():
        assert split == split_of.get(id_, "train")
    tokenizer = K2Tokenizer.load(made[0])
    for document in TokenShards.open(made[1], tokenizer).split("train").documents():
        assert not tokenizer.decode(document.tokens.tolist()).startswith(("validation", "test"))


def test_documents_end_in_eos_and_read_back(made: Any, tables: Tables) -> None:
    tokenizer = K2Tokenizer.load(made[0])
    text_of = dict(tables[0].select("id", "text").collect().iter_rows())
    stream = TokenShards.open(made[1]).split("validation")
    for document in stream.documents("web"):
        assert document.tokens[-1] == tokenizer.eos_id
        assert tokenizer.decode(document.tokens[:-1].tolist()) == text_of[document.id]
        assert document.kind == "natural"


def test_trajectories_are_rendered_with_the_chat_template(made: Any) -> None:
    tokenizer = K2Tokenizer.load(made[0])
    _, _, _, messages, tools = trajectory(2)
    expected, _ = encode_chat(tokenizer, *read_dialogue(messages, tools))
    got = {d.id: d for d in TokenShards.open(made[1]).split("validation").documents("trajectories")}["t2"]
    assert got.tokens.tolist() == [*expected, tokenizer.eos_id]
    assert got.kind == "synthetic"


def test_the_mixture_is_recorded_as_requested_and_as_realised(made: Any) -> None:
    _, directory, metrics = made
    card = json.loads((directory / "mixture.json").read_text())
    train = card["splits"]["train"]
    assert "knowledge" not in train
    assert sum(facts["asked"] for facts in train.values()) == pytest.approx(1, abs=1e-3)
    assert sum(facts["realised"] for facts in train.values()) == pytest.approx(1, abs=1e-3)
    for domain, facts in train.items():
        assert facts["epochs"] <= P["max_epochs"] + 0.2
        if facts["epochs"] < P["max_epochs"] - 0.2:
            assert facts["realised"] >= facts["asked"] - 0.05
        assert metrics[f"realised_share_{domain}"] == facts["realised"]
    stream = TokenShards.open(directory).split("train")
    assert metrics["train_tokens"] == stream.n_tokens == sum(facts["tokens"] for facts in train.values())
    assert abs(stream.n_tokens - P["train_tokens"]) < 0.1 * P["train_tokens"]
    assert metrics["train_bytes_per_token"] == pytest.approx(stream.bytes_per_token, abs=1e-4)
    assert all(isinstance(value, int | float | str) for value in metrics.values())


def test_held_out_splits_hold_each_document_at_most_once(made: Any) -> None:
    index = pl.read_parquet(made[1] / "index.parquet").filter(pl.col("split") != "train")
    assert index["copy"].max() == 0
    assert index["id"].n_unique() == index.height
    tokens = index.group_by("split", "domain").agg(pl.col("length").sum())["length"]
    assert tokens.max() < P["eval_tokens"] * 1.2


def test_a_second_run_is_byte_identical(made: Any, tables: Tables, tmp_path: Path) -> None:
    again = run(tables, tmp_path)
    assert files(made[0]) == files(again[0])
    assert files(made[1]) == files(again[1])
    assert made[2] == again[2]


def test_chunk_size_does_not_change_the_shards(made: Any, tables: Tables, tmp_path: Path) -> None:
    assert files(made[1]) == files(run(tables, tmp_path, chunk_documents=7)[1])


def test_shards_do_not_matter(made: Any, tables: Tables, tmp_path: Path) -> None:
    assert_shards_do_not_matter(write_shards, (made[0], *tables, P), tmp_path, "staging/*/*.parquet")
    assert files(tmp_path / "killed/shards") == files(made[1])


def test_another_seed_gives_another_order(made: Any, tables: Tables, tmp_path: Path) -> None:
    a = TokenShards.open(made[1]).split("train").batch(0, 4, 32, 1)
    b = TokenShards.open(run(tables, tmp_path, seed=2)[1]).split("train").batch(0, 4, 32, 1)
    assert (a != b).any()


def test_the_bpe_sample_follows_the_weights(tables: Tables) -> None:
    weights = {"web": 1.0, "code": 0.0, "maths": 1.0, "knowledge": 0.0, "rewrites": 0.0, "trajectories": 0.0}
    rows = list(sources.read(*tables))

    def read() -> Iterator[sources.Row]:
        return iter(rows)

    chosen = sources.sample(read, weights, 20_000, seed=1)
    domain_of = {row.as_text(): (row.domain, row.split) for row in rows}
    assert {domain_of[text] for text in chosen} == {("web", "train"), ("maths", "train")}
    assert 20_000 <= sum(len(text.encode()) for text in chosen) <= 20_000 + 2 * 2_000
    assert chosen != sources.sample(read, weights, 20_000, seed=2)


def test_the_bpe_sample_is_the_lowest_keys_that_fill_each_share(tables: Tables) -> None:
    rows = list(sources.read(*tables))
    for size in (1, 700, 5_000, 10**9):
        want = set()
        for domain, share in (("web", size / 4), ("code", size * 3 / 4)):
            filled = 0
            for row in sorted(rows, key=lambda row: key(3, "bpe", row.domain, row.id)):
                if row.domain == domain and row.split == "train" and filled < share:
                    filled += len(row.text.encode())
                    want.add(row.text)
        assert set(sources.sample(lambda: iter(rows), {"web": 1.0, "code": 3.0, "maths": 0.0}, size, seed=3)) == want


# ---------------------------------------------------------------------------------------------------- bad input

DAMAGED = (
    "not json",
    "{}",
    "[]",
    "null",
    "[" * 100_000 + "]" * 100_000,
    '[{"role": "user", "content": ' + "9" * 5_000 + "}]",
    '[{"role": "user", "content": "half \\ud83d"}]',
    '[{"role": "user", "content": 5}]',
    '[{"role": "user"}, 3]',
    '[{"content": "x"}]',
)


@pytest.mark.parametrize(
    ("table", "column"), [(0, "text"), (0, "split"), (1, "source_id"), (2, "messages"), (2, "tools")]
)
def test_a_missing_column_is_named(tables: Tables, tmp_path: Path, table: int, column: str) -> None:
    broken = list(tables)
    broken[table] = broken[table].drop(column)
    with pytest.raises(UserError, match=f"has no column '{column}'"):
        train_tokenizer(*broken, P, tmp_path)


def test_a_rewrite_of_a_held_out_document_is_refused(tables: Tables, tmp_path: Path) -> None:
    documents, rewrites, trajectories = tables
    held_out = documents.filter(pl.col("split") == "test").select("id").first().collect().item()
    rewrites = rewrites.with_columns(source_id=pl.lit(held_out))
    with pytest.raises(UserError, match=f"source_id {held_out} is a held-out document"):
        train_tokenizer(documents, rewrites, trajectories, P, tmp_path)


def test_an_empty_split_is_named(tables: Tables, tmp_path: Path) -> None:
    documents, rewrites, trajectories = tables
    cut = (documents.filter(pl.col("split") != "test"), rewrites, trajectories.filter(pl.col("split") != "test"))
    with pytest.raises(UserError, match="split 'test' has no document"):
        run(cut, tmp_path)


def test_an_unknown_domain_is_named(tables: Tables, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'poetry', which no training document has"):
        run(tables, tmp_path, weights={**P["weights"], "poetry": 1.0})


@pytest.mark.parametrize(
    "change",
    [
        *({"messages": one} for one in DAMAGED),
        *({"tools": one} for one in ("", "{}", "[1]", "[" * 100_000, '[{"name": "\\udc00"}]')),
    ],
    ids=lambda change: str(change)[:40],
)
def test_a_damaged_trajectory_is_named(tables: Tables, change: dict[str, str]) -> None:
    trajectories = tables[2].with_columns(**{column: pl.lit(value) for column, value in change.items()})
    with pytest.raises(UserError, match=r"trajectories, row t0: ") as error:
        [row.as_text() for row in sources.read(tables[0], tables[1], trajectories)]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("table", "column"), [(0, "text"), (0, "split"), (1, "source_id"), (1, "text"), (2, "messages"), (2, "tools")]
)
def test_a_column_that_is_no_text_or_null_is_named(tables: Tables, table: int, column: str) -> None:
    for value, sentence in (
        (pl.struct(a=1), f"the column '{column}' is Struct"),
        (pl.lit(1.5), f"the column '{column}' is Float64, not text"),
        (pl.lit(b"x"), f"the column '{column}' is Binary, not text"),
        (pl.lit(None, pl.String), f"row .*: {column} is null"),
    ):
        broken = list(tables)
        broken[table] = broken[table].with_columns(value.alias(column))
        with pytest.raises(UserError, match=sentence):
            list(sources.read(*broken))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"vocab_size": 276}, "need at least 277"),
        ({"weights": {"web": -1.0, "code": 2.0}}, "weight of web is negative"),
        ({"weights": {"web": 0.0}}, "weights sum to zero"),
        ({"weights": {}}, "weights sum to zero"),
        ({"special_tokens": 3}, "greater than or equal to 20"),
        ({"max_digits": 4}, "less than or equal to 3"),
        ({"vocab": 4096}, "Extra inputs are not permitted"),
    ],
)
def test_bad_parameters_are_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        Parameters.model_validate({**P, **change})


def test_shipped_parameters_are_valid() -> None:
    base = yaml.safe_load((ROOT / "conf/base/parameters/tokenization.yml").read_text())["tokenization"]
    smoke = yaml.safe_load((ROOT / "conf/smoke/parameters/tokenization.yml").read_text())["tokenization"]
    assert Parameters.model_validate(base).vocab_size == 4096
    assert Parameters.model_validate({**base, **smoke}).vocab_size == 512


def test_schema_and_engine_agree_on_the_special_tokens() -> None:
    from engine.text import special

    assert special.MIN_SPECIAL == MIN_SPECIAL
    assert np.iinfo(np.uint16).max >= P["vocab_size"]
