"""Natural text in the batches of fine-tuning and RL, so that a model keeps what it learnt in pre-training.

K2 adds such a loss to reinforcement learning (PTX, section 3.2.2); fine-tuning forgets even faster.
"""

from pathlib import Path
from typing import Final

import numpy as np
import torch

from engine.keyed import key
from engine.parallel.data import Ranks
from engine.text.shards import TokenShards
from engine.text.tokenizer import K2Tokenizer
from engine.training.batches import Batch, own
from engine.training.padded import Padded, pack_group

NATURAL: Final = "natural"
"""The kind of the group that `rows` returns, and of the shards that it reads."""


class NaturalText:
    """Windows of natural (not rewritten) training text as a pure function of the step; none if `windows` is 0."""

    def __init__(self, shards: Path, tokenizer: K2Tokenizer, windows: int, tokens: int, seed: int) -> None:
        self.windows, self.tokens, self.seed = windows, tokens, key(seed, "natural text")
        self.stream = TokenShards.open(shards, tokenizer).split("train") if windows else None

    def rows(self, step: int, ranks: Ranks) -> Batch:
        """Return this rank's windows of a step as a group in which every token counts; {} if there are none."""
        if self.stream is None:
            return {}
        rows = own(self.windows, ranks)
        ids = self.stream.batch(step, self.windows, self.tokens, self.seed, kinds=(NATURAL,), rows=rows)
        ids_BT = torch.from_numpy(ids)
        every = torch.from_numpy(np.ones(ids.shape, dtype=np.bool_))
        return pack_group(NATURAL, Padded(ids_BT, every, every), self.windows * self.tokens)
