"""The checkpoint that a training leaves for the next stage: the whole model, wherever its parts were trained.

Where each rank holds the whole model, it writes its own. Where the model is cut, no rank has all of it: the first one
reads the parts that all ranks have written to the last checkpoint of the training, one tensor of one expert at a time,
so that no more than a tensor is in its memory.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor

from engine.errors import UserError
from engine.model.checkpoint import Place, places, save_checkpoint, write_config
from engine.model.config import K2Config
from engine.model.model import K2Model
from engine.model.tensorfile import WEIGHTS, Spec, write_tensors
from engine.parallel import data
from engine.parallel.mesh import mesh
from engine.parallel.placement import Placement, placed_in
from engine.training.position import CHECKPOINTS
from engine.training.rank_file import TYPES
from engine.training.saving import Staged
from engine.training.sealed import INDEX, checkpoints
from engine.training.state import MODEL


def hand_off(directory: Path, model: K2Model, extra: dict[str, Any], work: Path) -> None:
    """Write a trained model into `directory`, as `save_checkpoint` does; `work` is the folder of its training.

    The weights of a model that is cut are those of the last checkpoint in `work`, and only the first rank writes.
    """
    if model.part is None:
        save_checkpoint(directory, model, extra)
    elif data.ranks().first:
        write_whole(directory, model.config, extra, SavedTensors(checkpoints(work / CHECKPOINTS)[-1]))


def save_whole(directory: Path, model: K2Model, extra: dict[str, Any]) -> None:
    """Write a model into `directory`, as `save_checkpoint` does, at any moment of its training.

    All ranks with parts of one model call this together: each writes its part beside the first one's `directory`, which
    then makes the whole of them.
    """
    if model.part is None:
        save_checkpoint(directory, model, extra)
        return
    directory = data.from_first(directory)
    parts = directory.with_name(f".{directory.name}.parts")
    Staged(Weights(model), mesh().grid).write(parts, dist.group.WORLD)
    if data.ranks().first:
        write_whole(directory, model.config, extra, SavedTensors(parts))
        shutil.rmtree(parts)
    data.from_first(None)  # so that no rank reads it before it is there


@dataclass
class Weights:
    """The weights and router biases of a model alone, to be written in parts."""

    model: K2Model

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of this rank's part."""
        return {f"{MODEL}:{name}": tensor for name, tensor in self.model.state_dict().items()}

    def placement(self, name: str) -> Placement:
        """Return a tensor's placement."""
        return placed_in(name, mesh().layout, mesh().grid, self.model.config.num_hidden_layers)


def write_whole(directory: Path, config: K2Config, extra: dict[str, Any], saved: "SavedTensors") -> None:
    """Write the model of a training's checkpoint into `directory`, without making it."""
    directory.mkdir(parents=True, exist_ok=True)
    names = [name.removeprefix(f"{MODEL}:") for name in saved.entries if name.startswith(f"{MODEL}:")]
    own = {
        released: place for name in names for released, place in places(name, range(config.n_routed_experts)).items()
    }
    with torch.device("meta"):
        whole = {
            name: torch.empty(saved.shape(f"{MODEL}:{name}"), dtype=saved.dtype(f"{MODEL}:{name}")) for name in names
        }
    views = {released: place.of(whole[place.name]) for released, place in own.items()}
    specs = {released: Spec(view.dtype, tuple(view.shape)) for released, view in views.items()}
    write_tensors(directory / WEIGHTS, specs, lambda released: _read(saved, own[released]))
    write_config(directory, config, extra)


def _read(saved: "SavedTensors", place: Place) -> Tensor:
    name = f"{MODEL}:{place.name}"
    if place.expert is None:
        return saved.read(name)
    return place.of(saved.read(name, range(place.expert, place.expert + 1)), place.expert)


class SavedTensors:
    """The tensors of a checkpoint of a training, which are read whole however the ranks have cut them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.entries: Mapping[str, Any] = json.loads((directory / INDEX).read_bytes())["tensors"]
        self._files: dict[str, Any] = {}

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a whole tensor."""
        return tuple(self.entries[name]["shape"])

    def dtype(self, name: str) -> torch.dtype:
        """Return the type of a tensor."""
        return TYPES[self.entries[name]["dtype"]]

    def read(self, name: str, rows: range | None = None) -> Tensor:
        """Return a tensor, or some consecutive `rows` along its first axis, and read nothing else.

        Raises UserError if the checkpoint lacks a part of them.
        """
        shape = self.shape(name)
        rows = range(shape[0]) if rows is None else rows
        out, filled = torch.empty(len(rows), *shape[1:], dtype=self.dtype(name)), 0
        for chunk in self.entries[name]["chunks"]:
            (first, *others), (count, *sizes) = chunk["offsets"], chunk["sizes"]
            start, stop = max(first, rows.start), min(first + count, rows.stop)
            if start >= stop:
                continue
            part = self._file(chunk["file"]).get_slice(name)[start - first : stop - first]
            ends = zip(others, sizes, strict=True)
            out[(slice(start - rows.start, stop - rows.start), *(slice(o, o + size) for o, size in ends))] = part
            filled += part.numel()
        if filled != out.numel():
            raise UserError(f"the checkpoint {self.directory} holds only a part of {name}: start the stage afresh.")
        return out

    def _file(self, name: str) -> Any:
        if name not in self._files:
            self._files[name] = safe_open(self.directory / name, framework="pt")
        return self._files[name]
