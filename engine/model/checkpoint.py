"""Checkpoints for other stages: model.safetensors and config.json, with the weight names of the released K2.

The experts' stacked weights are written separately, one gate, up and down per expert, so that Hugging Face's DeepseekV3
can read the file; loading stacks them again. Equal models give equal bytes.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.artifacts.files import read_object
from engine.device import device
from engine.errors import UserError
from engine.model.config import K2Config
from engine.model.model import K2Model
from engine.model.tensorfile import WEIGHTS, Spec, TensorFiles, write_tensors
from engine.parallel.mesh import mesh
from engine.remedy import remake
from kernels.host import to_host

CONFIG = "config.json"
EXTRA = "k2_pipeline"
STACKED = ("gate_up_proj", "down_proj")


@dataclass(frozen=True)
class Place:
    """Where a released tensor is in the model: the tensor `name`, of which it is one expert's, or a half of that.

    `half` is 0 for an expert's gate, 1 for its up projection.
    """

    name: str
    expert: int | None = None
    half: int | None = None

    def of(self, tensor: Tensor, first: int = 0) -> Tensor:
        """Return the released tensor, a view of the model's `tensor`, whose first expert is number `first`."""
        own = tensor if self.expert is None else tensor[self.expert - first]
        return own if self.half is None else own.chunk(2)[self.half]


def places(name: str, experts: range) -> dict[str, Place]:
    """Return by released name what is in the model's tensor `name`; of a stack, one for each of `experts`."""
    outer = name if name.startswith("lm_head.") else f"model.{name}"
    stem, _, last = outer.rpartition(".")
    if last not in STACKED:
        return {outer: Place(name)}
    out: dict[str, Place] = {}
    for expert in experts:
        if last == "down_proj":
            out[f"{stem}.{expert}.down_proj.weight"] = Place(name, expert)
        else:
            halves = enumerate(("gate_proj", "up_proj"))
            out |= {f"{stem}.{expert}.{word}.weight": Place(name, expert, half) for half, word in halves}
    return out


def state_dict(model: K2Model) -> dict[str, Tensor]:
    """Return weights and router biases under the released names, experts one by one; tensors are views."""
    experts = range(model.config.n_routed_experts) if model.part is None else model.part.experts
    return {
        released: place.of(tensor, experts.start)
        for name, tensor in model.state_dict().items()
        for released, place in places(name, experts).items()
    }


def released_shapes(config: K2Config) -> dict[str, tuple[int, ...]]:
    """Return released name → shape of every tensor of a model, in the model's order; takes no memory at any size."""
    with torch.device("meta"):
        model = K2Model(config, seed=None)
    return {name: tuple(tensor.shape) for name, tensor in state_dict(model).items()}


def check_names(names: Iterable[str], expected: Mapping[str, Any], source: str) -> None:
    """Refuse a foreign or a missing tensor, naming it."""
    present = set(names)
    foreign = sorted(present - set(expected))
    if foreign:
        raise UserError(f"{source}: tensor {foreign[0]} does not belong to this model; check its {CONFIG}")
    for name in expected:
        if name not in present:
            raise UserError(f"{source}: tensor {name} is missing: {remake(Path(source))}")


def check_tensor(name: str, tensor: Tensor, shape: tuple[int, ...], source: str) -> None:
    """Refuse a tensor of another shape, or with NaN or infinity."""
    if tuple(tensor.shape) != shape:
        shapes = f"{tuple(tensor.shape)}, but {CONFIG} asks for {shape}"
        raise UserError(f"{source}: tensor {name} has shape {shapes}; they belong to different models")
    (finite,) = to_host(tensor.isfinite().all())
    if not finite:
        raise UserError(f"{source}: tensor {name} holds NaN or infinity; take an earlier checkpoint")


def checked(
    weights: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], source: str
) -> Callable[[str], Tensor]:
    """Return a reader of `weights`, whose names must be those of `shapes`; each tensor is checked when it is read."""
    check_names(weights, shapes, source)

    def read(name: str) -> Tensor:
        tensor = weights[name]
        check_tensor(name, tensor, shapes[name], source)
        return tensor

    return read


def load_state_dict(model: K2Model, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy `weights` (released names) into the model; raises UserError naming `source` and the first wrong tensor.

    They are those of the whole model, of which a part takes its own.
    """
    with torch.no_grad():
        own = state_dict(model)
        shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
        read = checked(weights, shapes if model.part is None else released_shapes(model.config), source)
        for name, tensor in own.items():
            tensor.copy_(read(name))


def save_checkpoint(directory: Path, model: K2Model, extra: dict[str, Any]) -> None:
    """Write the model into `directory` (created if needed). `extra` goes into config.json as `k2_pipeline`."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = state_dict(model)
    specs = {name: Spec(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    write_tensors(directory / WEIGHTS, specs, tensors.__getitem__)
    write_config(directory, model.config, extra)


def write_config(directory: Path, config: K2Config, extra: dict[str, Any]) -> None:
    """Write config.json with `extra` as its `k2_pipeline`."""
    values = {**config.to_dict(), EXTRA: extra}
    (directory / CONFIG).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_config(directory: Path) -> dict[str, Any]:
    """Return the content of a checkpoint's config.json. Raises UserError naming the file."""
    path = directory / CONFIG
    try:
        values = read_object(path, remake(path))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: {remake(path)}") from None
    return values


def load_config(directory: Path) -> tuple[K2Config, dict[str, Any]]:
    """Return the configuration of a checkpoint and its `k2_pipeline` part. Raises UserError naming the file."""
    path, values = directory / CONFIG, read_config(directory)
    extra = values.get(EXTRA) or {}
    if not isinstance(extra, dict):
        raise UserError(f"{path}: {EXTRA} is {extra!r}, which is not an object; take it out")
    return K2Config.from_dict(values, str(path)), dict(extra)


def load_checkpoint(directory: Path, tokenizer: str | None = None) -> K2Model:
    """Return the model of a checkpoint, or this rank's part of it, on this process's device in fp32, in training mode.

    Raises UserError for a bad file, and, with `tokenizer`, a digest, for a checkpoint that names another tokenizer.
    """
    config, extra = load_config(directory)
    named = extra.get("tokenizer", tokenizer)
    if tokenizer is not None and named != tokenizer:
        raise UserError(
            f"{directory / CONFIG} names tokenizer {named}, but the one given is {tokenizer}: "
            f"{remake(directory / CONFIG)}"
        )
    weights = TensorFiles(directory)
    with device():
        model = K2Model(config, seed=None, part=mesh().part(config))
    load_state_dict(model, weights, str(directory / WEIGHTS))
    return model
