"""Being one shard of several, for a while: what `pipelines.rank --shard I --shards N` is for its whole life."""

from collections.abc import Iterator
from contextlib import contextmanager

from engine.launch import shards


@contextmanager
def one_shard(number: int, of: int) -> Iterator[None]:
    """Make this process one shard inside the `with`."""
    shards.become(number, of)
    try:
        yield
    finally:
        shards._mine = None
