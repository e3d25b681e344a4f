"""The passkey probe: a number is hidden in a long text and asked for at the end.

Shapes: T tokens, K tokens of the key, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.device import placed
from engine.errors import UserError
from engine.keyed import generator
from engine.model.layers import Linear
from engine.model.model import K2Model
from engine.text.tokenizer import K2Tokenizer
from engine.training.readings import Figures, Reading, read
from kernels.host import to_host
from nodes.extend.schema import Passkey

NEEDLE = "\nThe pass key is {key}. Remember it: {key} is the pass key.\n"
QUESTION = "\nWhat is the pass key? The pass key is"


@dataclass(frozen=True)
class Probe:
    """One text: its tokens (T,), the last `key_tokens` of which are the key, and the needle's depth, 0 to 1."""

    tokens: np.ndarray
    key_tokens: int
    depth: float


@dataclass(frozen=True)
class Score:
    """A model's score on the probes: share of keys and of key tokens predicted, and nats per key token."""

    accuracy: float
    token_accuracy: float
    nats_per_token: float


def probes(tokenizer: K2Tokenizer, filler: np.ndarray, length: int, settings: Passkey, seed: int) -> list[Probe]:
    """Return texts of `length` tokens, `trials` for each of `depths` evenly spaced depths; `filler` (n, ≥ length).

    Raises UserError if the needle does not fit into the length.
    """
    out = []
    for index in range(settings.depths * settings.trials):
        depth = (index % settings.depths + 0.5) / settings.depths
        draw = generator(seed, "passkey", index)
        key = "".join(str(d) for d in draw.integers(0, 10, settings.digits))
        needle, question = tokenizer.encode(NEEDLE.format(key=key)), tokenizer.encode(QUESTION)
        answer = tokenizer.encode(f" {key}")
        room = length - len(needle) - len(question) - len(answer)
        if room < 1:
            raise UserError(
                f"parameters: the passkey probe needs {length - room} tokens, but the extended length is {length}; "
                "raise extend.sequence_length or lower extend.passkey.digits"
            )
        text = filler[index % len(filler)]
        before = int(room * depth)
        tokens = np.concatenate([text[:before], needle, text[before:room], question, answer]).astype(np.int64)
        out.append(Probe(tokens, len(answer), depth))
    return out


def ask(model: K2Model, probes_: Sequence[Probe], dtype: str) -> Score:
    """Score whether the model, shown the key so far, predicts its next token greedily."""
    asked = [_reading(placed(probe.tokens[None], model.device), probe.key_tokens) for probe in probes_]
    keys = tokens = right = 0
    nats = 0.0
    for probe, (hits, logprob) in zip(probes_, to_host(*read(model, asked, dtype)), strict=True):
        keys += int(hits) == probe.key_tokens
        right += int(hits)
        tokens += probe.key_tokens
        nats -= float(logprob)
    return Score(keys / len(probes_), right / tokens, nats / tokens)


def _reading(ids: Tensor, key_tokens: int) -> Reading:
    """Return the reading of one probe (1, T+1) that gives how many of its last tokens are predicted, and their sum of
    log-probabilities, (2,).
    """

    def loss(head: Linear, hidden_1TD: Tensor) -> tuple[Tensor, Figures]:
        logprobs_KV = head(hidden_1TD[0, -key_tokens:]).float().log_softmax(-1)
        targets_K = ids[0, -key_tokens:]
        hits = (logprobs_KV.argmax(-1) == targets_K).sum()
        return torch.stack((hits.double(), logprobs_KV.gather(-1, targets_K[:, None]).sum().double())), {}

    return Reading(ids[:, :-1], None, loss)
