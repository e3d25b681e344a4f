"""fp32 masters of weights stored in bf16 or fp16: the optimizer updates them, the model computes with copies."""

import warnings

import torch
from torch import Tensor, nn

from engine.optim import foreach


class Masters:
    """The tensor that the optimizer updates for each weight: an fp32 master if the weight is narrower, else itself.

    `keep` False updates narrow weights directly, with a warning: updates below 2^-9 of a bf16 weight are lost.
    """

    def __init__(self, named: dict[str, nn.Parameter], keep: bool) -> None:
        narrow = {name: p for name, p in named.items() if p.element_size() < 4}
        if narrow and not keep:
            warnings.warn(
                f"{len(narrow)} weights are kept in {next(iter(narrow.values())).dtype} without fp32 masters: small "
                "updates are lost and QK-Clip is exact to 1 % only; give masters=True",
                stacklevel=3,
            )
        self.named, self.narrow = named, narrow if keep else {}
        self.copies = {name: p.detach().to(torch.float32, copy=True) for name, p in self.narrow.items()}
        self._by_id = {id(p): self.copies[name] for name, p in self.narrow.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self.copies.get(name, self.named[name])

    def of(self, parameter: nn.Parameter) -> Tensor:
        """Return the tensor to update for a weight of the model."""
        return self._by_id.get(id(parameter), parameter)

    def take_gradients(self, names: dict[str, nn.Parameter]) -> None:
        """Give the masters of these weights their gradients in fp32, for optimizers that read `.grad`."""
        for name in names.keys() & self.copies.keys():
            grad = self.narrow[name].grad
            self.copies[name].grad = None if grad is None else grad.float()

    @torch.no_grad()
    def publish_(self) -> None:
        """Set every narrow weight to its master, rounded to nearest."""
        if self.copies:
            foreach.copy_([self.narrow[name].data for name in self.copies], list(self.copies.values()))
        for copy in self.copies.values():
            copy.grad = None
