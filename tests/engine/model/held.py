"""What a cache really holds, however it keeps it."""

import torch


def held_bytes(cache):
    """Bytes of the storage of every floating-point tensor that the cache holds."""
    sizes, queue = {}, [*vars(cache).values()]
    while queue:
        value = queue.pop()
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            sizes[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        elif isinstance(value, list | tuple):
            queue += value
    return sum(sizes.values())
