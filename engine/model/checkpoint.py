"""Checkpoints to hand off: model.safetensors and config.json, as the released K2 names its weights.

The experts' stacked weights are written apart, one gate, up and down a expert, so that Hugging Face's
DeepseekV3 reads the file; loading stacks them again. The same model gives the same bytes.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from engine.errors import UserError
from engine.model.config import K2Config
from engine.model.model import K2Model

WEIGHTS, CONFIG = "model.safetensors", "config.json"
EXTRA = "k2_pipeline"
STACKED = ("gate_up_proj", "down_proj")


def state_dict(model: K2Model) -> dict[str, Tensor]:
    """Weights and router biases under the released names, experts one by one. Tensors are views of the model's."""
    out: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        outer = name if name.startswith("lm_head.") else f"model.{name}"
        stem, _, last = outer.rpartition(".")
        if last not in STACKED:
            out[outer] = tensor
            continue
        for index, expert in enumerate(tensor):
            if last == "down_proj":
                out[f"{stem}.{index}.down_proj.weight"] = expert
            else:
                gate, up = expert.chunk(2)
                out[f"{stem}.{index}.gate_proj.weight"], out[f"{stem}.{index}.up_proj.weight"] = gate, up
    return out


def load_state_dict(model: K2Model, weights: dict[str, Tensor], source: str) -> None:
    """Copy released-name `weights` into the model. Raises UserError naming `source` and the first wrong tensor."""
    with torch.no_grad():
        wanted = state_dict(model)
        foreign = sorted(set(weights) - set(wanted))
        if foreign:
            raise UserError(f"{source}: tensor {foreign[0]} does not belong to this model; check its {CONFIG}")
        for name, place in wanted.items():
            if name not in weights:
                raise UserError(f"{source}: tensor {name} is missing; make the checkpoint again")
            if weights[name].shape != place.shape:
                shapes = f"{tuple(weights[name].shape)}, but {CONFIG} asks for {tuple(place.shape)}"
                raise UserError(f"{source}: tensor {name} has shape {shapes}; they are of two models")
            place.copy_(weights[name])


def save_checkpoint(directory: Path, model: K2Model, extra: dict[str, Any]) -> None:
    """Write the model into `directory` (made if needed). `extra` goes to config.json's `k2_pipeline`."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().contiguous() for name, tensor in state_dict(model).items()}
    (directory / WEIGHTS).write_bytes(save(tensors, metadata={"format": "pt"}))
    config = {**model.config.to_dict(), EXTRA: extra}
    (directory / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def load_config(directory: Path) -> tuple[K2Config, dict[str, Any]]:
    """The configuration of a checkpoint and its `k2_pipeline` part. Raises UserError naming the file."""
    path = directory / CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; make the checkpoint first, or name another directory") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not JSON ({error}); make the checkpoint again") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no JSON object; make the checkpoint again")
    return K2Config.from_dict(values, str(path)), dict(values.get(EXTRA, {}))


def load_checkpoint(directory: Path) -> K2Model:
    """The model of a checkpoint, on the CPU in fp32, in training mode. Raises UserError for a bad file."""
    config, _ = load_config(directory)
    path = directory / WEIGHTS
    if not path.exists():
        raise UserError(f"{path} does not exist; make the checkpoint again")
    model = K2Model(config, seed=None)
    try:
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise UserError(f"{path} is truncated or no safetensors file ({error}); make the checkpoint again") from None
    load_state_dict(model, weights, str(path))
    return model
