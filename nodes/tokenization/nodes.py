"""The nodes of the tokenization stage: train the tokenizer, then encode, mix by domain and pack into shards."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nodes.tokenization.schema import Parameters

if TYPE_CHECKING:
    import polars as pl


def train_tokenizer(
    documents: "pl.LazyFrame",
    rewrites: "pl.LazyFrame",
    trajectories: "pl.LazyFrame",
    parameters: dict[str, Any],
    workspace: Path,
) -> Path:
    """Train a byte-level BPE on a sample of the training texts; return the directory with its three files."""
    from engine.text import bpe
    from nodes.tokenization.sources import read, sample

    p = Parameters.model_validate(parameters)
    texts = sample(lambda: read(documents, rewrites, trajectories), p.weights, p.train_bytes, p.seed)
    directory = workspace / "tokenizer"
    bpe.save(bpe.train(texts, p.vocab_size, p.special_tokens, p.max_digits), directory, p.context_length)
    return directory


def write_shards(
    tokenizer: Path,
    documents: "pl.LazyFrame",
    rewrites: "pl.LazyFrame",
    trajectories: "pl.LazyFrame",
    parameters: dict[str, Any],
    workspace: Path,
) -> tuple[Path, dict[str, float | int | str]]:
    """Encode all rows, mix the training split by domain, write the shards; return their directory and the metrics.

    Encoded documents are kept in `workspace`, several per file, and may be made by several processes.
    """
    import polars as pl

    from engine.text.tokenizer import K2Tokenizer
    from nodes.tokenization.packing import pack
    from nodes.tokenization.sources import read
    from nodes.tokenization.staging import Staging

    p = Parameters.model_validate(parameters)
    tok = K2Tokenizer.load(tokenizer)
    staging = Staging(workspace / "staging", tok)
    total = sum(int(frame.select(pl.len()).collect().item()) for frame in (documents, rewrites, trajectories))
    table = staging.encode(read(documents, rewrites, trajectories), total, p.chunk_documents)
    return pack(staging, table, tok, p, workspace / "shards")
