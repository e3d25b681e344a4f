"""Natural text for the PTX loss: windows of the training shards."""

from pathlib import Path

import torch

from engine.rollout.seeds import key
from engine.text.shards import TokenShards
from engine.text.tokenizer import K2Tokenizer
from engine.training.padded import Padded
from nodes.rl.schema import Ptx


class NaturalText:
    """Windows of natural (not rewritten) training text, a pure function of the step."""

    def __init__(self, shards: Path, tokenizer: K2Tokenizer, ptx: Ptx, seed: int) -> None:
        self.ptx, self.seed = ptx, key(seed, "natural text")
        self.stream = TokenShards.open(shards, tokenizer).split("train") if ptx.natural and ptx.weight > 0 else None

    def batch_at(self, step: int) -> dict[str, Padded]:
        """The step's windows as one group, every token counted; nothing where none are asked for."""
        if self.stream is None:
            return {}
        ids = self.stream.batch(step, self.ptx.natural, self.ptx.natural_tokens, self.seed, kinds=("natural",))
        ids_BT = torch.from_numpy(ids)
        every = torch.ones_like(ids_BT, dtype=torch.bool)
        return {"natural": Padded(ids_BT, every, every)}
