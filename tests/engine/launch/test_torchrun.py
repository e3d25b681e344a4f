"""Ranks under torchrun: one that dies takes the others down at once, and the driver learns which it was."""

import inspect
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.errors import UserError
from engine.launch import exchange
from engine.launch.torchrun import LOST, cause

ROOT = Path(__file__).parents[3]


def failure(exitcode: int, timestamp: int = 0) -> SimpleNamespace:
    return SimpleNamespace(exitcode=exitcode, timestamp=timestamp)


def test_torch_has_the_classes_behind_torchrun() -> None:
    import torch
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    sentence = f"torch {torch.__version__} has another torchrun than torch 2.13.0: write engine/launch/torchrun.py anew"
    given = {"min_nodes", "max_nodes", "nproc_per_node", "run_id", "rdzv_backend", "rdzv_endpoint", "max_restarts"}
    given |= {"signals_to_handle", "logs_specs"}
    assert given <= set(inspect.signature(LaunchConfig).parameters), sentence
    assert {"log_dir", "redirects"} <= set(inspect.signature(DefaultLogsSpecs).parameters), sentence
    assert list(inspect.signature(elastic_launch).parameters)[:2] == ["config", "entrypoint"], sentence


def test_the_first_cause_is_named_not_those_who_lost_it() -> None:
    killed = cause({0: failure(LOST), 2: failure(-9), 3: failure(LOST)}, 4, "train")
    assert killed.startswith("rank 2 of 4 of node train was killed by signal 9;")
    failed = cause({0: failure(LOST, 1), 1: failure(1, 2)}, 2, "train")
    assert failed.startswith("rank 1 of 2 of node train failed with exit code 1 ")
    assert cause({0: failure(LOST), 1: failure(LOST)}, 2, "train").startswith("rank 0 of 2")


def test_a_dead_rank_ends_the_others_with_a_sentence(tmp_path: Path) -> None:
    exchange.write_parameters(tmp_path, "train", {})
    command = [sys.executable, "-m", "engine.launch.torchrun", "--processes=2", f"--parent={os.getpid()}"]
    command += [f"--workspace={tmp_path}", "--node=train", "tests.engine.launch.dying_rank"]
    begun = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, timeout=100, check=False)
    assert done.returncode == 1
    assert time.monotonic() - begun < 60, "the rank that waits for ten minutes was not left to"
    with pytest.raises(UserError, match=r"^rank 1 of 2 of node train was killed by signal 9; run the same command"):
        exchange.raise_error(tmp_path, "train", done.returncode)
