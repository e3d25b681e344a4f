"""Batches of examples of unequal length, and the log-probability of their counted tokens.

Rows are padded on the right: attention is causal, so padding after a row's end changes nothing before it. The head is
computed at counted positions only, which saves most of its work for answers of three tokens to questions of fifteen.

Shapes: B rows, T positions, M counted tokens of all rows, D model channels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from engine.device import placed
from engine.model.layers import Linear
from engine.model.model import K2Model
from engine.training.readings import Figures, Reading
from kernels.cross_entropy import linear_cross_entropy
from kernels.host import Host, to_host

IDS: Final = "ids"
COUNTED: Final = "counted"
VALID: Final = "valid"
TOTAL: Final = "total"


@dataclass(frozen=True)
class Padded:
    """Token ids, the mask of tokens to be predicted and the mask of tokens that are not padding, all (B, T)."""

    ids_BT: Tensor
    counted_BT: Tensor
    valid_BT: Tensor

    @property
    def count(self) -> int:
        """The number of tokens to be predicted; a row's first token has no past and is never one of them."""
        return int(to_host(self.counted_BT[:, 1:].sum())[0])

    def to(self, device: torch.device) -> "Padded":
        """Return the batch on a device."""
        return Padded(self.ids_BT.to(device), self.counted_BT.to(device), self.valid_BT.to(device))


def pad(rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Padded:
    """Stack rows of (ids, mask) to the length of the longest; padding is token 0 and never counted."""
    width = max((len(ids) for ids, _ in rows), default=1)
    ids_BT = np.zeros((len(rows), width), dtype=np.int64)
    counted_BT, valid_BT = (np.zeros((len(rows), width), dtype=np.bool_) for _ in range(2))
    for i, (ids, mask) in enumerate(rows):
        ids_BT[i, : len(ids)] = ids
        counted_BT[i, : len(ids)] = mask
        valid_BT[i, : len(ids)] = True
    return Padded(*map(torch.from_numpy, (ids_BT, counted_BT, valid_BT)))


@dataclass(frozen=True)
class Places:
    """Where a batch's counted tokens are: their rows (M,), and their places (M,) in the rows without a first token.

    The host reads the batch's mask for them: how many there are decides the shapes of what follows.
    """

    row_M: Tensor
    place_M: Tensor

    @classmethod
    def of(cls, batch: Padded, counted_BT: Host | None = None) -> "Places":
        """Return the places in a batch, on its device; `counted_BT` is its mask where the host has read it already."""
        (mask,) = to_host(batch.counted_BT) if counted_BT is None else (counted_BT,)
        return cls(*(placed(index, batch.ids_BT.device) for index in np.nonzero(mask[:, 1:])))

    def taken_from(self, values_BT: Tensor) -> Tensor:
        """Return the counted places' values of (B, T - 1, …), one row each."""
        return values_BT[self.row_M, self.place_M]


def hidden_counted(model: K2Model, batch: Padded, places: Places) -> Tensor:
    """Return the model's output before each counted token, (M, D).

    A row is read up to its last token but one, whatever other rows there are: neither the largest logits nor the
    experts' loads record the positions after that, so that both are the same however rows are batched.
    """
    hidden_BTD = model.hidden(batch.ids_BT[:, :-1], valid_BT=batch.valid_BT[:, 1:])
    return places.taken_from(hidden_BTD)


def token_logprobs(model: K2Model, batch: Padded, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return the log-probability at `temperature` of each counted token, (M,), and the row it is in, (M,)."""
    places = Places.of(batch)
    logits_MV = model.lm_head(hidden_counted(model, batch, places)).float() / temperature
    targets_M = places.taken_from(batch.ids_BT[:, 1:])
    return logits_MV.log_softmax(-1).gather(-1, targets_M[:, None])[:, 0], places.row_M


def response_logprobs(model: K2Model, batch: Padded, temperature: float = 1.0) -> Tensor:
    """Return the sum of the counted tokens' log-probabilities of each row, (B,)."""
    logprobs_M, row_M = token_logprobs(model, batch, temperature)
    return logprobs_M.new_zeros(len(batch.ids_BT)).index_add(0, row_M, logprobs_M)


def mean_nll(model: K2Model, batch: Padded, places: Places | None = None) -> Tensor:
    """Return the mean negative log-likelihood of the counted tokens, in nats; `places` are theirs, if known."""
    places = places or Places.of(batch)
    targets_M = places.taken_from(batch.ids_BT[:, 1:])
    return linear_cross_entropy(hidden_counted(model, batch, places), model.lm_head.weight, targets_M)


def nll_reading(batch: Padded) -> Reading:
    """Return the reading that gives what `mean_nll` does."""
    places = Places.of(batch)
    targets_M = places.taken_from(batch.ids_BT[:, 1:])

    def loss(head: Linear, hidden_BTD: Tensor) -> tuple[Tensor, Figures]:
        return linear_cross_entropy(places.taken_from(hidden_BTD), head.weight, targets_M), {}

    return Reading(batch.ids_BT[:, :-1], batch.valid_BT[:, 1:], loss)


def pack_group(kind: str, group: Padded, total: int) -> dict[str, Tensor]:
    """Return a padded group under flat names, the form of a batch; `total` is the whole step's counted tokens."""
    return {
        f"{kind}/{IDS}": group.ids_BT,
        f"{kind}/{COUNTED}": group.counted_BT,
        f"{kind}/{VALID}": group.valid_BT,
        f"{kind}/{TOTAL}": placed(float(total), group.ids_BT.device),
    }


def group_of(batch: Mapping[str, Tensor], kind: str) -> Padded:
    """Return the group of `kind` in a batch of `pack_group`s."""
    return Padded(*(batch[f"{kind}/{part}"] for part in (IDS, COUNTED, VALID)))


def kinds_of(batch: Mapping[str, Tensor]) -> list[str]:
    """Return the kinds in a batch of `pack_group`s, in its order."""
    return [name.removesuffix(f"/{IDS}") for name in batch if name.endswith(f"/{IDS}")]


def no_loss(model: K2Model) -> Tensor:
    """Return a zero with a gradient, for steps with nothing to learn."""
    return 0.0 * model.norm.weight.sum()


def group_loss(
    model: K2Model, batch: Mapping[str, Tensor], weight: Callable[[str], float]
) -> tuple[Tensor, dict[str, Any]]:
    """Return the weighted mean over kinds of each kind's mean token loss, and the kinds' losses for the history.

    For micro-batches these average to the whole batch's loss, however its tokens are dealt.
    """
    kinds = kinds_of(batch)
    read = to_host(*(batch[f"{kind}/{part}"] for kind in kinds for part in (COUNTED, TOTAL)))
    losses = {
        kind: _share_of_mean(model, group_of(batch, kind), counted_BT, float(total))
        for kind, counted_BT, total in zip(kinds, read[::2], read[1::2], strict=True)
    }
    total = sum(weight(kind) for kind in losses)
    loss = torch.stack([weight(kind) * value for kind, value in losses.items()]).sum() / total
    return loss, {f"loss_{kind}": value for kind, value in losses.items()}


@dataclass(frozen=True)
class GroupLoss:
    """`group_loss` as an objective, with the weight of each kind."""

    weight: Callable[[str], float]

    def __call__(self, model: K2Model, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
        """Return the loss of a batch, and the kinds' losses."""
        return group_loss(model, batch, self.weight)

    def readings(self, batch: Mapping[str, Tensor]) -> list[Reading]:
        """Return a reading for each kind; of a kind without counted tokens here nothing is read."""
        kinds = kinds_of(batch)
        total = sum(map(self.weight, kinds))
        read = to_host(*(batch[f"{kind}/{part}"] for kind in kinds for part in (COUNTED, TOTAL)))
        return [
            _reading(kind, group_of(batch, kind), counted_BT, float(tokens), self.weight(kind) / total)
            for kind, counted_BT, tokens in zip(kinds, read[::2], read[1::2], strict=True)
        ]


def _reading(kind: str, group: Padded, counted_BT: Host, total: float, share: float) -> Reading:
    """Return a kind's reading, with `share` of its mean token loss; see `_share_of_mean` and `hidden_counted`."""
    places = Places.of(group, counted_BT)
    count = len(places.row_M)
    rows = slice(None) if count else slice(0)

    def loss(head: Linear, hidden_BTD: Tensor) -> tuple[Tensor, Figures]:
        if count:
            targets_M = places.taken_from(group.ids_BT[:, 1:])
            value = linear_cross_entropy(places.taken_from(hidden_BTD), head.weight, targets_M) * (count / total)
        else:
            value = 0.0 * hidden_BTD.sum()
        return share * value, {f"loss_{kind}": value}

    return Reading(group.ids_BT[rows, :-1], group.valid_BT[rows, 1:], loss)


def _share_of_mean(model: K2Model, group: Padded, counted_BT: Host, total: float) -> Tensor:
    """Return the mean token loss, weighted by this micro-batch's tokens over its equal part of the total."""
    places = Places.of(group, counted_BT)
    count = len(places.row_M)
    return mean_nll(model, group, places) * (count / total) if count else no_loss(model)
