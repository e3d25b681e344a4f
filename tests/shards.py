"""Being one shard of several, for a while: what `pipelines.rank --shard I --shards N` is for its whole life."""

from collections.abc import Iterator
from contextlib import contextmanager

from engine.launch import job_array


@contextmanager
def one_shard(number: int, of: int) -> Iterator[None]:
    """Make this process one shard inside the `with`."""
    job_array.become(number, of)
    try:
        yield
    finally:
        job_array._mine = None
