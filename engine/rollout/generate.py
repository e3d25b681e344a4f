"""Sample from a model, batched, cached and keyed: the rollout engine of RL, and `make chat`.

Shapes: B rows, T prompt tokens, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.device import placed
from engine.errors import UserError
from engine.keyed import generator
from engine.model.cache import LatentCache
from engine.model.decoder import Decoder
from engine.model.model import K2Model
from engine.parallel import data
from engine.parallel.mesh import mesh
from engine.parallel.relay import next_logits
from kernels.host import to_host
from kernels.precision import wide

ROWS = 512
"""Prompts decoded together; more would only cost memory."""
DROP_SHARE = 0.25
"""Finished rows are dropped once they are this share of the batch, since dropping copies the cache."""


@dataclass(frozen=True)
class Completion:
    """What was sampled for a prompt, including the stop token if it was drawn.

    `logprobs` are those of the sampled tokens under the distribution they were drawn from, that is, at the sampling
    temperature (temperature 0: of the greedy token at temperature 1). `truncated` means that no stop token was drawn
    within max_new_tokens.
    """

    tokens: list[int]
    logprobs: list[float]
    truncated: bool


class Constraint(Protocol):
    """Excludes tokens while decoding; rows are numbered by prompt (engine/rollout/enforcer.py)."""

    def mask_(self, logits_BV: Tensor, rows: Sequence[int]) -> None:
        """Set the logits of tokens that must not come next to -inf in place; line b is the prompt `rows[b]`'s."""
        ...

    def take(self, row: int, token: int) -> None:
        """Record that `token` was drawn for the prompt `row`."""
        ...


@torch.inference_mode()
def generate(
    model: K2Model,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float,
    seed: int,
    stop_id: int,
    constraint: Constraint | None = None,
    first: int = 0,
) -> list[Completion]:
    """Continue each prompt until `stop_id` or `max_new_tokens`; return the completions in the prompts' order.

    Prompts are numbered from `first` on, and prompt i draws from its own stream, keyed by (seed, i): equal prompts give
    different samples, and one prompt's sample does not depend on the others. A prompt that occurs several times is read
    once. Under a `constraint`, which knows these numbers, log-probabilities are those of the distribution over the
    tokens left. The model's mode is restored. Ranks that hold parts of one model call this together, and all get what
    the first of them draws. Raises UserError if prompt and answer exceed the model's context.
    """
    limit = model.config.max_position_embeddings
    for index, prompt in enumerate(prompts, first):
        if not prompt:
            raise UserError(f"prompt {index} is empty; give at least one token")
        if len(prompt) + max_new_tokens > limit:
            raise UserError(
                f"prompt {index} has {len(prompt)} tokens; with max_new_tokens {max_new_tokens} it exceeds the model's "
                f"context of {limit}; shorten the prompt or lower max_new_tokens"
            )
    training = model.training
    model.eval()
    try:
        out: list[Completion] = []
        for start in range(0, len(prompts), ROWS):
            rows = prompts[start : start + ROWS]
            numbers = range(first + start, first + start + len(rows))
            draws = np.stack([generator(seed, "sample", number).random(max_new_tokens) for number in numbers])
            batch = _Batch(model, rows, max_new_tokens, temperature, stop_id, constraint, numbers.start)
            out += batch.run(placed(draws, model.device))
        return out
    finally:
        model.train(training)


def stream(
    model: K2Model, prompt: Sequence[int], max_new_tokens: int, temperature: float, seed: int, stop_id: int
) -> Iterator[int]:
    """Yield the tokens of one completion as they are drawn, without the stop token: the same as `generate` gives."""
    draws = placed(generator(seed, "sample", 0).random(max_new_tokens)[None], model.device)
    training = model.training
    model.eval()
    try:
        for tokens in _Batch(model, [prompt], max_new_tokens, temperature, stop_id).steps(draws):
            if tokens[0] == stop_id:
                return
            yield tokens[0]
    finally:
        model.train(training)


class _Batch:
    """One batch of prompts while it is decoded."""

    def __init__(
        self,
        model: K2Model,
        prompts: Sequence[Sequence[int]],
        max_new: int,
        temperature: float,
        stop_id: int,
        constraint: Constraint | None = None,
        first: int = 0,
    ) -> None:
        self.model, self.max_new, self.temperature, self.stop_id = model, max_new, temperature, stop_id
        self.constraint, self.first = constraint, first
        self.prompts = prompts
        self.tokens: list[list[int]] = [[] for _ in prompts]
        self.logprobs: list[list[float]] = [[] for _ in prompts]
        self.live = list(range(len(prompts)))

    def run(self, draws: Tensor) -> list[Completion]:
        """Decode to the end; the uniform `draws` (B, max_new) in [0, 1) decide the samples."""
        for _ in self.steps(draws):
            pass
        done = map(self._ended, range(len(self.tokens)))
        return [Completion(t, p, not d) for t, p, d in zip(self.tokens, self.logprobs, done, strict=True)]

    @torch.inference_mode()
    def steps(self, draws: Tensor) -> Iterator[list[int]]:
        """Decode token by token; yield each step's tokens for the rows that are still in the batch.

        A step waits for the device once, for its tokens: they decide which rows end.
        """
        logits, cache = self._prefill()
        step_of = self._step(cache)
        for step in range(self.max_new):
            if self.constraint is not None:
                self.constraint.mask_(logits, [self.first + row for row in self.live])
            chosen, logprob = _sample(logits, draws[:, step], self.temperature)
            if mesh().cut:  # the last bits of a logit may differ between ranks, which all read the same rows together
                data.copy_from_first_([chosen, logprob])
            tokens, values = (part.tolist() for part in to_host(chosen, logprob))
            for row, token, value in zip(self.live, tokens, values, strict=True):
                if not self._ended(row):
                    self.tokens[row].append(token)
                    self.logprobs[row].append(value)
                    if self.constraint is not None:
                        self.constraint.take(self.first + row, token)
            yield tokens
            going = [place for place, row in enumerate(self.live) if not self._ended(row)]
            over = len(self.live) - len(going)
            if not going or step + 1 == self.max_new:
                return
            if over >= DROP_SHARE * len(self.live):
                kept = placed(going, self.model.device)
                cache.select(kept)
                self.live = [self.live[place] for place in going]
                chosen, draws = chosen[kept], draws[kept]
            logits = step_of(chosen).float()

    def _step(self, cache: LatentCache) -> Callable[[Tensor], Tensor]:
        """Return the function that takes a token of each row (B,) and gives the next logits (B, V)."""
        if mesh().grid.pp == 1:
            return Decoder(self.model, cache).step
        return lambda ids_B: next_logits(self.model, ids_B[:, None], cache)

    def _ended(self, row: int) -> bool:
        """Return whether a row's stop token was drawn."""
        return bool(self.tokens[row]) and self.tokens[row][-1] == self.stop_id

    def _prefill(self) -> tuple[Tensor, LatentCache]:
        """Read each distinct prompt once, left-padded to the longest; return the next logits (B, V) and the cache.

        RoPE depends only on distances, so a padded row may count its positions from the padding.
        """
        unique: dict[tuple[int, ...], int] = {}
        which = [unique.setdefault(tuple(prompt), len(unique)) for prompt in self.prompts]
        longest = max(len(prompt) for prompt in unique)
        starts = [longest - len(prompt) for prompt in unique]
        device = self.model.device
        ids = placed([[0] * start + list(prompt) for start, prompt in zip(starts, unique)], device)
        dtype = wide(next(self.model.parameters()).dtype)
        cache = LatentCache(self.model.config, len(unique), longest + self.max_new, starts, dtype, device)
        logits = next_logits(self.model, ids, cache)
        rows = placed(which, device)
        cache.select(rows)
        return logits[rows], cache


def _sample(logits_BV: Tensor, draw_B: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Draw one token per row by inverting the cumulative distribution at `draw_B`; return also its log-probability."""
    if temperature == 0:
        # On a CPU NumPy's argmax takes a tenth of the time of torch's
        chosen = torch.from_numpy(logits_BV.numpy().argmax(-1)) if logits_BV.is_cpu else logits_BV.argmax(-1)
        logprobs = logits_BV.log_softmax(-1)
    else:
        logprobs = (logits_BV / temperature).log_softmax(-1)
        shares = logprobs.double().exp()
        cumulative = shares.cumsum(-1) if shares.is_cpu else sums_by_blocks(shares)
        # Scaled by the total, which rounding leaves a little off 1, so that no index beyond the last token is drawn.
        chosen = torch.searchsorted(cumulative, draw_B[:, None] * cumulative[:, -1:], right=True)[:, 0]
        chosen = chosen.clamp(max=logits_BV.shape[-1] - 1)
    return chosen, logprobs.gather(-1, chosen[:, None])[:, 0]


def sums_by_blocks(shares_BV: Tensor) -> Tensor:
    """Return the sums of each row up to each place, (B, V), as `cumsum` does, which is not deterministic on a GPU.

    Products with triangles of ones give the sums inside of blocks and those of the blocks before.
    """
    B, V = shares_BV.shape
    n = math.isqrt(V - 1) + 1  # about as many blocks as places in a block
    blocks_BNn = F.pad(shares_BV, (0, -V % n)).view(B, -1, n)
    within_BNn = blocks_BNn @ blocks_BNn.new_ones(n, n).triu()
    N = blocks_BNn.shape[1]
    before_BN = within_BNn[..., -1] @ blocks_BNn.new_ones(N, N).triu(1)
    return (within_BNn + before_BN[..., None]).view(B, -1)[:, :V]
