"""torch's functions without a public name are where torch 2.13.0 has them (see also optim/test_foreach)."""

from pkgutil import resolve_name

import pytest
import torch

USES = {
    "torch.multiprocessing.reductions.StorageWeakRef": "Keeping of kernels/kept.py",
    "torch._C._current_graph_task_id": "records of kernels/kept.py",
    "torch._C._set_deterministic_algorithms": "settle of engine/training/numerics.py",
    "torch.distributed.checkpoint.state_dict_saver._save_state_dict": "Staged.write of engine/training/saving.py",
    "torch.distributed.checkpoint.state_dict_loader._load_state_dict": "read_pieces of engine/training/saving.py",
    "torch.ops.aten._softmax_backward_data": "the backward of kernels/latent_attention.py",
    "torch.cpu._is_avx512_bf16_supported": "_cpu_multiplies_bf16 of kernels/precision.py",
    "torch.cpu._is_amx_tile_supported": "_cpu_multiplies_bf16 of kernels/precision.py",
} | {
    f"torch.distributed.pipelining.{name}": "engine/parallel/pipeline_runtime.py"
    for name in (
        "schedules._Action.from_str",
        "schedules._PipelineScheduleRuntime._step_microbatches",
        "stage.PipelineStage._setup_forward_recv_info",
        "stage.PipelineStage._setup_backward_recv_info",
        "stage.PipelineStage.get_fwd_recv_ops",
        "stage.PipelineStage.get_bwd_recv_ops",
        "stage.PipelineStage.get_fwd_send_ops",
        "stage.PipelineStage.get_bwd_send_ops",
        "stage.PipelineStage.forward_one_chunk",
        "stage.PipelineStage.backward_one_chunk",
        "stage.PipelineStage.backward_weight_one_chunk",
    )
}
"""Where torch 2.13.0 has what we use → the function that uses it."""


def present(path: str) -> bool:
    """Return whether torch has a function, by its path."""
    try:
        return callable(resolve_name(path))
    except (ImportError, AttributeError):
        return False


@pytest.mark.parametrize("path", USES)
def test_torch_has_the_function(path: str) -> None:
    assert present(path), f"torch {torch.__version__} has no {path}, which torch 2.13.0 had: write {USES[path]} anew."


def test_a_function_that_is_gone_is_noticed() -> None:
    assert not present("torch.cpu._is_moved")
    assert not present("torch.ops.aten._is_moved")
