"""fp32 masters of weights stored in bf16 or fp16: the optimizer updates them, the model computes with copies."""

import warnings
from collections.abc import Mapping, Set

import torch
from torch import Tensor, nn

from engine.optim import foreach


class Masters:
    """The tensor that the optimizer updates for each weight: an fp32 master if the weight is narrower, else itself.

    `keep` False updates narrow weights directly, with a warning: updates below 2^-9 of a bf16 weight are lost.
    `own` has what this rank updates of each weight, a view of it, where that is not all.
    """

    def __init__(self, named: dict[str, nn.Parameter], keep: bool, own: Mapping[str, Tensor] | None = None) -> None:
        self.named: Mapping[str, Tensor] = named if own is None else own
        narrow = {name: tensor for name, tensor in self.named.items() if tensor.element_size() < 4}
        if narrow and not keep:
            warnings.warn(
                f"{len(narrow)} weights are kept in {next(iter(narrow.values())).dtype} without fp32 masters: small "
                "updates are lost and QK-Clip is exact to 1 % only; give masters=True",
                stacklevel=3,
            )
        self.narrow = narrow if keep else {}
        self.copies = {name: tensor.detach().to(torch.float32, copy=True) for name, tensor in self.narrow.items()}
        self._by_id = {id(p): self[name] for name, p in named.items()}
        self._apart = {name: self[name] for name, p in named.items() if self[name] is not p}
        """The tensors that are not the weights themselves, to which a backward gives no gradients."""

    def __getitem__(self, name: str) -> Tensor:
        return self.copies.get(name, self.named[name])

    def of(self, parameter: nn.Parameter) -> Tensor:
        """Return the tensor to update for a weight of the model."""
        return self._by_id.get(id(parameter), parameter)

    def take_gradients(self, names: Set[str], gradients: Mapping[str, Tensor]) -> None:
        """Give the tensors of these weights their gradients, in their types, for optimizers that read `.grad`."""
        for name in names & self._apart.keys():
            grad = gradients.get(name)
            self._apart[name].grad = None if grad is None else grad.to(self._apart[name].dtype)

    @torch.no_grad()
    def publish_(self) -> None:
        """Set every narrow weight to its master, rounded to nearest."""
        if self.copies:
            foreach.copy_([self.narrow[name].data for name in self.copies], list(self.copies.values()))
        for tensor in self._apart.values():
            tensor.grad = None
