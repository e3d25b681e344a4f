"""Write and read a state's tensors through torch.distributed.checkpoint; writing goes on beside the training.

A save copies what this rank is to write (its share of the state: the one staging copy), and a thread writes the copy
while the training goes on. The ranks' threads agree through a process group of their own.
"""

import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from engine.errors import UserError
from engine.parallel import data
from engine.parallel.layout import Grid
from engine.parallel.placement import Piece, Placement, dealt, held, piece
from engine.training.rank_file import shapes

T = TypeVar("T")


class Placed(Protocol):
    """Named tensors with their placements."""

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors that this rank holds, by name."""
        ...

    def placement(self, name: str) -> Placement:
        """Return the placement of a tensor of this or another rank."""
        ...


class State(Placed, Protocol):
    """Tensors that a checkpoint brings back; TrainState is one."""

    step: int

    def load(self, step: int, tensors: Mapping[str, Tensor], where: str) -> None:
        """Continue after `step` steps with copies of `tensors`; `where` begins the sentence of a refusal."""
        ...


class InBackground(Generic[T]):
    """A call in a thread of its own."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call: Callable[[], T] | None = call
        self._value: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="checkpoint")
        self._thread.start()

    def _run(self) -> None:
        assert self._call is not None
        try:
            self._value.append(self._call())
        except BaseException as error:  # it is raised again by whoever waits
            self._error = error
        finally:
            self._call = None  # and with it the staging copy, which would live until the next save

    @property
    def failed(self) -> bool:
        """Whether the call has ended with an error."""
        return self._error is not None

    def wait(self) -> T:
        """Return what the call returned, once it has; raises what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._value[0]


class Staged:
    """A copy in main memory of the pieces of a state that this rank writes to its checkpoint."""

    def __init__(self, state: Placed, grid: Grid) -> None:
        rank, tensors = data.ranks().rank, state.tensors()
        placements = {name: state.placement(name) for name in tensors}
        mine = dealt(tensors, placements, grid, rank)
        self.rank = rank
        self.pieces = {name: piece(placements[name], tuple(tensors[name].shape), grid, rank) for name in mine}
        self.tensors = {name: _copied(tensors[name]) for name in mine}

    def write(self, partial: Path, group: ProcessGroup | None) -> tuple[str, dict[str, str]]:
        """Write the pieces of all ranks to `partial`, which the first rank makes anew; all ranks call it together.

        Returns on the first rank the digest of the state and that of each file. Raises UserError if a file cannot be
        written on any rank.
        """
        # the public `save` is this function, and a warning to every user who trains in one process
        from torch.distributed.checkpoint.state_dict_saver import _save_state_dict

        from engine.training.storage import PieceSavePlanner, RankFileWriter

        if self.rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
        writer, planner = RankFileWriter(partial, self.rank), PieceSavePlanner(self.pieces)
        _agreed(
            lambda: _save_state_dict(self.tensors, writer, group, no_dist=group is None, planner=planner),
            f"the checkpoint {partial.parent / partial.stem.lstrip('.')} could not be written",
        )
        return writer.result.state, writer.result.files


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def read_pieces(directory: Path, state: State, grid: Grid, group: ProcessGroup | None) -> dict[str, Tensor]:
    """Return by name the pieces of a verified checkpoint that this rank is to hold, however they were cut before.

    All ranks call it together. Raises UserError on all if a file reads differently on any rank, or if one cannot cut a
    tensor into the parts that the ranks hold.
    """
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict  # as above

    from engine.training.storage import PieceLoadPlanner, RankFileReader

    rank, refusal = data.ranks().rank, ""
    pieces: dict[str, Piece] = {}
    tensors: dict[str, Tensor] = {}
    for name, (whole, dtype) in shapes(directory).items():
        try:
            part = held(state.placement(name), whole, grid, rank)
        except ValueError as error:
            part, refusal = None, f"the checkpoint {directory} is of another model: {name}: {error}."
        if part:
            pieces[name], tensors[name] = part, torch.empty(part.sizes, dtype=dtype)
    data.refuse_everywhere(refusal)
    planner = PieceLoadPlanner(pieces)
    _agreed(
        lambda: _load_state_dict(tensors, RankFileReader(directory), group, no_dist=group is None, planner=planner),
        f"the checkpoint {directory} was whole a moment ago and cannot be read",
    )
    return tensors


def _agreed(call: Callable[[], object], failure: str) -> None:
    """Run a save or load of torch.distributed.checkpoint; its error becomes one sentence, the same on every rank."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        data.together(call)
    except CheckpointException as error:
        rank, (cause, _) = min(error.failures.items())
        raise UserError(
            f"{failure} (rank {rank}: {type(cause).__name__}: {cause}); once that is put right, the same command goes "
            "on from the checkpoint before."
        ) from error
