"""Which form of an op runs, and what is said where Triton's cannot: without Triton, without a GPU."""

import importlib.metadata
import logging
import subprocess
import sys

import pytest
import torch

from kernels import choice
from kernels.__main__ import rows
from kernels.latent_attention import latent_attention, reference


@pytest.fixture
def pretended(monkeypatch):
    """The CPU as a device whose tensors go to Triton."""
    monkeypatch.setattr(choice, "INTERPRETED", {"cpu"})
    monkeypatch.setattr(choice, "_mentioned", set())
    choice.missing.cache_clear()
    yield monkeypatch
    choice.missing.cache_clear()


def installed(monkeypatch, version):
    def versioned(name):
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", versioned)


def attend():
    operands = torch.ones(1, 3, 1, 24), torch.ones(1, 3, 1, 32), torch.ones(1, 3, 8)
    turn = torch.ones(3, 4, dtype=torch.complex64)
    y, _ = latent_attention(*operands, turn, 0.1)
    torch.testing.assert_close(y, reference(*operands, turn, 0.1)[0])


@pytest.mark.parametrize(
    ("version", "reason"),
    [(None, "Triton is not installed; pip install -r"), ("3.5.1", r"Triton is 3.5.1, older than 3.6; pip install -r")],
)
def test_without_a_fit_triton_an_op_falls_back_and_says_so_once(version, reason, pretended, caplog):
    installed(pretended, version)
    with caplog.at_level(logging.WARNING):
        attend()
        attend()
    (message,) = [record.message for record in caplog.records]
    assert message.startswith(f"latent_attention does not run as a Triton kernel: {reason}")
    assert message.endswith("torch's form computes in its place")


def test_under_strict_it_is_refused_with_the_remedy(pretended):
    installed(pretended, None)
    with (
        choice.strict(),
        pytest.raises(choice.KernelRefused, match=r"latent_attention .*not installed.*strict_kernels"),
    ):
        attend()
    attend()


def test_on_a_cpu_nothing_is_asked(pretended):
    pretended.setattr(choice, "INTERPRETED", set())
    installed(pretended, None)
    with choice.strict():
        attend()


IMPORTS_ALL = """
import importlib, pkgutil, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        assert name.partition(".")[0] != "triton", "triton is imported"
sys.meta_path.insert(0, Refuse())
import kernels, torch
for module in pkgutil.iter_modules(kernels.__path__):
    if module.name not in ("gpu", "hopper", "__main__"):
        importlib.import_module(f"kernels.{module.name}")
import engine.model.model, engine.training.loop
from tests.kernels.test_choice import attend
attend()
from kernels.__main__ import main
main()
"""


def test_a_laptop_never_imports_triton():
    done = subprocess.run([sys.executable, "-c", IMPORTS_ALL], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_table_names_every_op_and_says_what_is_not_measured(tmp_path):
    table = rows(tmp_path)
    assert {"latent_attention", "rotary"} <= {line[0] for line in table}
    assert {tuple(line[3:]) for line in table} == {("not compiled", "0", "not measured")}
    if not torch.cuda.is_available():
        assert all(line[1] == "torch" and "sees no GPU" in line[2] for line in table)
