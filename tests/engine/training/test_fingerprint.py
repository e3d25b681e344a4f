"""What ties a checkpoint to the machine it was made on."""

from pathlib import Path

from engine.training import numerics


def test_the_processor_is_told_apart_not_only_its_instructions(monkeypatch):
    here = numerics.fingerprint(1, "float32")
    assert here["device"] == "cpu"
    if "model name" in Path("/proc/cpuinfo").read_text():
        assert here["processor"] in Path("/proc/cpuinfo").read_text()
    monkeypatch.setattr(numerics, "processor", lambda: "Another CPU of the same capability")
    assert numerics.fingerprint(1, "float32") != here


def test_a_gpu_is_named(monkeypatch):
    monkeypatch.setattr(numerics.torch.cuda, "get_device_name", lambda: "NVIDIA H800")
    assert numerics.fingerprint(1, "bfloat16", "cuda")["device"] == "NVIDIA H800"
