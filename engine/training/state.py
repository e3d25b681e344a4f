"""Everything that training changes, as named tensors, each with its placement on the ranks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor

from engine.errors import UserError
from engine.model.model import K2Model
from engine.parallel.gradients import Gradients, SummedGradients
from engine.parallel.mesh import mesh
from engine.parallel.placement import REPLICATED, Placement, placed_in

MODEL, OPTIMIZER = "model", "optimizer"


class Optimizer(Protocol):
    """The methods of an optimizer that training uses; `MuonClip` is one."""

    def set_lr(self, lr: float) -> None:
        """Use the learning rate `lr` from the next step on."""
        ...

    def step(self) -> dict[str, float]:
        """Update the parameters by their gradients and return the figures of this step's row in the history."""
        ...

    def zero_grad(self) -> None:
        """Drop the gradients."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Return by name everything that `load_state_dict` needs, so that later updates are the same."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        ...

    @property
    def state_bytes(self) -> int:
        """The bytes of the state once every weight has taken a step, but for single numbers."""
        ...


@runtime_checkable
class Dividing(Protocol):
    """An optimizer that may divide its state among the ranks, and then reduces the gradients in a form of its own."""

    @property
    def gradients(self) -> Gradients:
        """What reduces the gradients before a step."""
        ...

    def placement(self, name: str, of_weight: Placement) -> Placement:
        """Return how a tensor of its state lies on the ranks, given how the tensor's weight does."""
        ...


@dataclass
class TrainState:
    """A model that is being trained, its optimizer, and the number of steps done; a process may have several.

    The router biases are buffers of the model. No generator's state belongs here, since all randomness of a step is
    drawn from (seed, step).
    """

    model: K2Model
    optimizer: Optimizer
    step: int = 0
    gradients: Gradients = field(init=False)

    def __post_init__(self) -> None:
        """Take the form of the gradients' reduction that the optimizer needs."""
        own = self.optimizer.gradients if isinstance(self.optimizer, Dividing) else None
        self.gradients = own or SummedGradients(self.model)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors, not copied: `model:NAME` and `optimizer:NAME`, named as the `state_dict`s name them."""
        parts = {MODEL: self.model.state_dict(), OPTIMIZER: self.optimizer.state_dict()}
        return {f"{part}:{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}

    def placement(self, name: str) -> Placement:
        """Return a tensor's placement on the mesh of this process; a model that is not cut is whole on every rank."""
        place = REPLICATED
        if self.model.part is not None:
            place = placed_in(name, mesh().layout, mesh().grid, self.model.config.num_hidden_layers)
        part, _, rest = name.partition(":")
        if part == OPTIMIZER and isinstance(self.optimizer, Dividing):
            return self.optimizer.placement(rest, place)
        return place

    def load(self, step: int, tensors: Mapping[str, Tensor], where: str) -> None:
        """Continue after `step` steps with copies of `tensors`. Raises UserError as `fit` does."""
        self.model.load_state_dict(self.fit(tensors, where))
        self.step = step

    def fit(self, tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
        """Load the optimizer's part of `tensors`; return the model's part after checking names, shapes and types.

        Raises UserError, which begins with `where`, if they are of another model or optimizer; nothing is changed then.
        """
        parts: dict[str, dict[str, Tensor]] = {MODEL: {}, OPTIMIZER: {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(":")
            parts[part][rest] = tensor
        own = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in self.model.state_dict().items()}
        kept = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in parts[MODEL].items()}
        for name in sorted({*own, *kept}):
            if own.get(name) != kept.get(name):
                theirs, ours = (f"{of[name][0]}" if name in of else "absent" for of in (kept, own))
                raise UserError(f"{where} is of another model: {name} is {theirs} there, {ours} here.")
        try:
            self.optimizer.load_state_dict(parts[OPTIMIZER])
        except UserError as error:
            raise UserError(f"{where} is of another optimizer: {str(error).partition(';')[0]}.") from error
        return parts[MODEL]
