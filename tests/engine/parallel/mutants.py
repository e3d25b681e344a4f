"""Defects that a step over several ranks may have, to be put into a process that must then differ from one process."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from engine.optim.owned import OwnedGradients
from engine.parallel import data, pipeline, pipeline_runtime
from engine.parallel.gradients import SummedGradients
from engine.parallel.mesh import mesh
from engine.training import padded, readings
from kernels import deferred
from tests.placement.replaced import replaced


def _summed(tensors: Any, group: Any = None) -> None:
    data.sum_([tensor.clamp_(min=0.0) for tensor in tensors], group)


def _own_mean(model: Any, group: Any, counted_BT: Any, total: float) -> Tensor:
    places = padded.Places.of(group, counted_BT)
    return padded.mean_nll(model, group, places) if len(places.row_M) else padded.no_loss(model)


def _norm_of_own(self: SummedGradients) -> Tensor:
    return torch.nn.utils.get_total_norm([p.grad for p in self.named.values() if p.grad is not None])


_sum, _sum_gradients = data.sum_, data.sum_gradients_


def _experts_over_replicas(parameters: Any, group: Any = None) -> None:
    _sum_gradients(parameters, mesh().replicas)


def _dense_over_dp(parameters: Any, group: Any = None) -> None:
    _sum_gradients(parameters, mesh().group("dp"))


def _own_loads(tensors: Any, group: Any = None) -> None:
    _sum([tensor for tensor in tensors if tensor.is_floating_point()], group)


def _lost() -> Callable[[], None]:
    deferred.taken()
    return lambda: None


def _kept(self: OwnedGradients) -> None:
    pass


def _all_valid(of: Any) -> list[tuple[Tensor, Tensor]]:
    return [(ids, torch.ones_like(ids, dtype=torch.bool)) for ids, _ in readings.aligned(of)]


MUTANTS: Mapping[str, tuple[object, str, Callable[..., Any]]] = {
    "maxima are summed": (data, "max_", _summed),
    "losses are averaged without weights": (padded, "_share_of_mean", _own_mean),
    "dense gradients are not summed along ep": (data, "sum_gradients_", _dense_over_dp),
    "experts' gradients are summed along ep": (data, "sum_gradients_", _experts_over_replicas),
    "the norm leaves out other ranks' experts": (SummedGradients, "norm", _norm_of_own),
    "loads are not summed along ep": (data, "sum_", _own_loads),
    "gradients set aside are lost": (pipeline_runtime, "taken", _lost),
    "a pipeline's padding counts": (pipeline, "aligned", _all_valid),
    "an owner keeps its weights to itself": (OwnedGradients, "gather_", _kept),
}
"""Each defect: what takes whose place."""


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """Put a defect into this process while the context lasts; "" is none."""
    with ExitStack() as stack:
        if name:
            stack.enter_context(replaced(*MUTANTS[name]))
        yield
