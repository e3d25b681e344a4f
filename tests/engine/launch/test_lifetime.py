"""No process outlives its parent, and no two hold one stage."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import UserError
from engine.launch.lifetime import lock
from tests.processes import is_alive, wait_until_gone

SLEEPER = """
import sys, time
from engine.launch.lifetime import die_with_parent
die_with_parent(int(sys.argv[1]))
print(1, flush=True)
time.sleep(60)
"""
PARENT = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
child.wait()
"""


def test_child_dies_with_a_killed_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, SLEEPER], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert is_alive(child)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    wait_until_gone(child)


def test_lock_is_refused_by_name_while_held_and_free_after(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with lock(path, "stage x"), pytest.raises(UserError, match=f"stage x is already running.*{os.getpid()}"):
        lock(path, "stage x", patience=0.2)
    lock(path, "stage x", patience=0).close()


def test_inherited_lock_outlives_the_one_who_took_it(tmp_path: Path) -> None:
    held = lock(tmp_path / "lock", "stage x")
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], pass_fds=(held.fileno(),))
    held.close()
    with pytest.raises(UserError, match=rf"already running \(.*lock is held by process {child.pid}\): wait"):
        lock(tmp_path / "lock", "stage x", patience=0.2)
    child.kill()
    child.wait()
    lock(tmp_path / "lock", "stage x", patience=1).close()
