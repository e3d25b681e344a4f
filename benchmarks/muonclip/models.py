"""The competitors: the laptop profile's model, and transformers' DeepseekV3 of the same configuration and weights."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from engine.model.checkpoint import state_dict
from engine.model.config import K2Config
from engine.model.model import K2Model
from engine.model.parameters import config_from_parameters

VOCABULARY = 4096
EXPERTS = ("eager", "grouped_mm")
"""Its ways through the experts; batched_mm copies the experts' weights for every token: ten times slower here."""
ATTENTIONS = ("sdpa", "eager")


def laptop_config(length: int) -> K2Config:
    """Return the laptop profile's architecture, for sequences of `length`."""
    from pipelines import graph

    given: dict[str, Any] = graph.parameters("laptop")
    return config_from_parameters(given["pretrain"]["model"], VOCABULARY, length)


def ours(config: K2Config, dtype: torch.dtype = torch.float32) -> K2Model:
    """Return our model, in training mode."""
    return K2Model(config, seed=0).to(dtype).train()


def theirs(config: K2Config, experts: str, attention: str, dtype: torch.dtype = torch.float32) -> Any:
    """Return transformers' model with our model's weights, in training mode."""
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    values = {name: value for name, value in config.to_dict().items() if name != "architectures"}
    model = DeepseekV3ForCausalLM._from_config(
        DeepseekV3Config(**values), attn_implementation=attention, experts_implementation=experts
    )
    own = state_dict(K2Model(config, seed=0))
    shared = {name: tensor for name, tensor in own.items() if name in dict(model.named_parameters())}
    model.load_state_dict(shared, strict=False)
    return model.to(dtype).train()


def peers(config: K2Config, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Return transformers' model in each way that may be its fastest."""
    return {
        f"transformers, {experts} experts, {attention} attention": theirs(config, experts, attention, dtype)
        for experts in EXPERTS
        for attention in ATTENTIONS
    }


def batch(rows: int, length: int) -> Tensor:
    """Return token ids (rows, length + 1), the same every time."""
    return torch.randint(0, VOCABULARY, (rows, length + 1), generator=torch.Generator().manual_seed(0))


def longer(config: K2Config, length: int) -> K2Config:
    """Return the same model for longer sequences."""
    return replace(config, max_position_embeddings=length)
