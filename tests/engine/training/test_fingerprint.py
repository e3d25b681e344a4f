"""What ties a checkpoint to the machine it was made on."""

import importlib.metadata
from pathlib import Path

from engine.training import numerics


def test_the_processor_is_told_apart_not_only_its_instructions(monkeypatch):
    here = numerics.fingerprint(1, "float32")
    assert here["device"] == "cpu"
    if "model name" in Path("/proc/cpuinfo").read_text():
        assert here["processor"] in Path("/proc/cpuinfo").read_text()
    monkeypatch.setattr(numerics, "processor", lambda: "Another CPU of the same capability")
    assert numerics.fingerprint(1, "float32") != here


def test_a_gpu_is_named_and_the_triton_that_it_computes_with(monkeypatch):
    """Without Triton a GPU computes in torch's forms, whose bits are others."""
    monkeypatch.setattr(numerics.torch.cuda, "get_device_name", lambda: "NVIDIA H800")
    monkeypatch.setattr(importlib.metadata, "version", {"triton": "3.7.1"}.__getitem__)
    here = numerics.fingerprint(1, "bfloat16", "cuda")
    assert (here["device"], here["triton"]) == ("NVIDIA H800", "3.7.1")
    assert "triton" not in numerics.fingerprint(1, "bfloat16")

    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    assert numerics.fingerprint(1, "bfloat16", "cuda") == here | {"triton": "none"}
