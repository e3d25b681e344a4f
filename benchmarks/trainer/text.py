"""Text to train on: the standard library's sources, tokenized into shards of natural text."""

import sysconfig
from pathlib import Path

import numpy as np

from engine.text import bpe
from engine.text.shard_writer import Entry, ShardWriter
from engine.text.tokenizer import K2Tokenizer

VOCABULARY = 4096
"""The laptop profile's."""


def write_text(folder: Path) -> Path:
    """Write a tokenizer and shards into `folder`, which is returned; every eighth module is for validation."""
    sources = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    documents = [path.read_text(encoding="utf-8", errors="replace") for path in sources]
    bpe.save(bpe.train(documents[::4], VOCABULARY, 20, 1), folder / "tokenizer", VOCABULARY)
    tok = K2Tokenizer.load(folder / "tokenizer")
    writer = ShardWriter(folder / "shards", tok, shard_tokens=1 << 20)
    encoded = tok.encode_batch(documents)
    for split, taken in (("validation", range(0, len(documents), 8)), ("train", range(1, len(documents), 8))):
        entries = [
            Entry(sources[i].stem, "code", 0, len(documents[i]), np.array([*encoded[i], tok.eos_id])) for i in taken
        ]
        writer.write(split, "code", "natural", entries)
    writer.close({"weights": {}})
    return folder
