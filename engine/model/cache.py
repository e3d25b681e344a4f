"""The cache for decoding: MLA keeps of each token its key-value latent and its rotary key, nothing per head.

Shapes: B rows, S slots, R latent channels, d rotary channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.device import placed
from engine.model.config import K2Config


class LatentCache:
    """The latents of the tokens so far for all layers; rows are right-aligned and share one length.

    Rows of unequal length are padded on the left; `starts` says which slot of each row is its first (none: slot 0).
    Space for `capacity` slots is allocated at once, so that a step writes in place.
    """

    def __init__(
        self,
        config: K2Config,
        rows: int,
        capacity: int,
        starts: Sequence[int] = (),
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        width = config.kv_lora_rank + config.qk_rope_head_dim
        self.capacity = capacity
        self.length = 0
        self.start_B = placed(starts or [0] * rows, torch.device(device))
        self.padded = any(starts)
        shape = (rows, capacity, width)
        self.layers = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)]

    def end(self, new: int) -> int:
        """Return the number of slots used once `new` more tokens are in; raises ValueError if they do not fit."""
        end = self.length + new
        if end > self.capacity:
            raise ValueError(f"cache of {self.capacity} slots cannot take token {end}")
        return end

    def append(self, layer: int, latent_BTr: Tensor) -> Tensor:
        """Write the latents of T new tokens and return those of all slots up to them, (B, length+T, R+d)."""
        end, store = self.end(latent_BTr.shape[1]), self.layers[layer]
        store[:, self.length : end] = latent_BTr
        return store[:, :end]

    def visible(self, new: int) -> Tensor | None:
        """Return which slots each of `new` next tokens sees, (B, 1, new, length+new) bool: its own past, no padding.

        Returns None if every one of them sees every slot.
        """
        if new == 1 and not self.padded:
            return None
        slots = torch.arange(self.length + new, device=self.start_B.device)
        queries = slots[self.length :]
        past = slots[None, :] <= queries[:, None]
        owned = slots[None, :] >= self.start_B[:, None]
        itself = slots[None, :] == queries[:, None]  # so that a padding query has at least one slot to attend to
        return (past[None] & (owned[:, None, :] | itself[None]))[:, None]

    def select(self, rows: Tensor) -> None:
        """Keep only `rows` (indices on the cache's device), to drop rows or copy one prefix for many samples."""
        self.start_B = self.start_B[rows]
        self.layers = [store[rows] for store in self.layers]
