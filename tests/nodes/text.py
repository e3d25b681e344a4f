"""A small tokenizer and real shards for the tests of the training stages: a few modules of the standard library."""

import sysconfig
from functools import lru_cache
from pathlib import Path

import polars as pl
import yaml

from nodes.tokenization.nodes import train_tokenizer, write_shards

ROOT = Path(__file__).parents[2]
MODULES = {
    "train": ["textwrap.py", "heapq.py", "fractions.py", "json/decoder.py", "string.py", "csv.py", "shelve.py"],
    "validation": ["statistics.py"],
    "test": ["bisect.py"],
}


@lru_cache
def parameters(stage, profile=None):
    """A stage's parameters of conf/base, those of `profile` merged over them."""
    out = yaml.safe_load((ROOT / f"conf/base/parameters/{stage}.yml").read_text())[stage]
    if profile:
        merge(out, yaml.safe_load((ROOT / f"conf/{profile}/parameters/{stage}.yml").read_text())[stage])
    return out


def merge(into, changes):
    """Deep-merge `changes` into a nested dictionary."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value
    return into


def make(directory: Path) -> tuple[Path, Path]:
    """(tokenizer, shards) under `directory`."""
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    rows = [
        {"id": f"{i:016x}", "domain": "code", "split": split, "text": (stdlib / name).read_text()}
        for i, (split, name) in enumerate((split, name) for split, names in MODULES.items() for name in names)
    ]
    documents = pl.LazyFrame(rows)
    rewrites = pl.LazyFrame(
        [{"id": "f" * 16, "source_id": f"{0:016x}", "domain": "code", "text": "Text wrapping and filling. " * 40}]
    )
    trajectories = pl.LazyFrame(
        [
            {
                "id": f"{i:016x}",
                "domain": "home",
                "split": "train",
                "messages": '[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]',
                "tools": "[]",
            }
            for i in range(16, 24)
        ]
    )
    weights = {"code": 0.9, "rewrites": 0.08, "trajectories": 0.02}
    p = {**parameters("tokenization"), "vocab_size": 512, "weights": weights, "train_tokens": 60_000}
    inputs = (documents, rewrites, trajectories)
    tokenizer = train_tokenizer(*inputs, p, directory)
    return tokenizer, write_shards(tokenizer, *inputs, p, directory)[0]
