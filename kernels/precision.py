"""In which type sums are formed."""

import torch


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type in which sums over `dtype` are formed: fp32, or fp64 where that was given."""
    return torch.float64 if dtype == torch.float64 else torch.float32
