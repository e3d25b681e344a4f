"""The device of a process: the CPU unless whoever runs a node says otherwise, and never one that is not there."""

import pytest
import torch

from engine import device
from engine.errors import UserError
from kernels import choice

here = torch.cuda.device_count()


def test_a_process_works_on_the_cpu_unless_a_context_says_otherwise():
    assert device.device() == torch.device("cpu")
    with device.working_on("meta"):
        assert device.device() == torch.device("meta")
        with pytest.raises(LookupError), device.working_on(device.CPU):
            raise LookupError
        assert device.device() == torch.device("meta")
    assert device.device() == torch.device("cpu")


def test_gpus_that_are_not_there_are_refused():
    device.require(device.CPU, 1000, "FILE: class train", several=True)
    seen = f"{here} of them" if here else "none"
    words = f"^FILE: class train, field device: cuda needs 1000 GPUs on .* torch sees {seen}.*; set"
    with pytest.raises(UserError, match=words):
        device.require(device.CUDA, 1000, "FILE: class train", several=True)


@pytest.mark.skipif(torch.distributed.is_nccl_available(), reason="torch has NCCL here")
def test_ranks_on_gpus_without_nccl_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    device.require(device.CUDA, 1, "FILE: class train", several=False)
    for processes in (1, 2):  # of several ranks on machines of one GPU, too
        with pytest.raises(UserError, match=r"^FILE: class train, field device: several ranks .* need NCCL, and torch"):
            device.require(device.CUDA, processes, "FILE: class train", several=True)


def test_a_stray_local_rank_chooses_no_gpu(monkeypatch):
    """A shell inside of an allocation has one, and only a rank of torchrun may follow it."""
    chosen = []
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)  # torch's own, since there need be no GPU here
    with device.working_on(device.CUDA):
        assert device.device() == torch.device("cuda", 0)
    with device.working_on(device.CUDA, 2):
        assert device.device() == torch.device("cuda", 2)
    assert chosen == [0, 2]


def test_strict_refuses_an_op_that_falls_back_with_one_sentence(monkeypatch):
    monkeypatch.setattr(choice, "_mentioned", set())
    with device.working_on("meta"):
        assert not choice.accepted("an op", "its heads have 3 channels")
    words = "^an op does not run as a Triton kernel: its heads have 3 channels; or set strict_kernels: false in compute"
    with pytest.raises(UserError, match=words), device.working_on("meta", strict=True):
        choice.accepted("an op", "its heads have 3 channels")
    assert not choice.accepted("an op", "its heads have 3 channels")


@pytest.mark.gpu
@pytest.mark.skipif(not here, reason="there is no GPU here")
def test_a_rank_works_on_the_gpu_of_its_number(monkeypatch):
    device.require(device.CUDA, here, "FILE: class train", several=here > 1)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    for number in range(here):
        with device.working_on(device.CUDA, number):
            assert device.device() == torch.device("cuda", number)
            assert torch.cuda.current_device() == number
    torch.cuda.set_device(0)
