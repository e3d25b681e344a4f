"""Every command of the README does what it says, in the README's order, on the smoke graph.

The laptop's `make run` takes ten minutes, so it is run with PROFILE=smoke, which is the same recipe and the same stages
at another size; so is every other command that a profile can be named for. What CI runs elsewhere, and what takes too
long, is listed with its reason in tests/docs/readme.py.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.docs.readme import README, commands, is_run
from tests.graph.conftest import MAKE
from tests.project import ENVIRONMENT, LEDGER, PROFILE, Project

pytestmark = pytest.mark.slow
SERVERS = ("make ui", "make compare")
TYPED = {"make chat CHECKPOINT=rl": "/system\n3+4-2=\n"}
"""What is typed into a command that reads: the dialogue of the README, then Ctrl-D."""
REFUSED = {"make adopt-work STAGE=pretrain KEY=…": "error: stage pretrain has no unfinished work"}
"""Commands that have nothing to work on here, since no work was left unfinished, and say so."""


@pytest.fixture(scope="module")
def project(whole: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the whole graph, with its environment where the README has it, to do with as the README says.

    The study that the README runs is cut to a few steps a run: all of its sweeps, arms, seeds and tests.
    """
    copy = whole.copied(tmp_path_factory.mktemp("readme") / "k2")
    (copy.path / ".venv").symlink_to(sys.prefix)
    for long, short in (("budgets: {1x: 120, 4x: 480}", "budgets: {1x: 2, 4x: 4}"), ("steps: 120", "steps: 2")):
        copy.edit("conf/studies/muon_vs_adamw.yml", long, short)
    copy.edit("conf/studies/muon_vs_adamw.yml", "steps: 120", "steps: 2")
    copy.edit("conf/studies/common.yml", "final_windows: 256", "final_windows: 8")
    return copy


def on_smoke(command: str) -> str:
    """Return a command of the README as it is run here: on the smoke profile, in the present environment."""
    if command == "dvc repro":
        return f"dvc repro {LEDGER}"
    if command.startswith("sed -i "):
        return f"{command} && ! git diff --quiet -- {command.rsplit(maxsplit=1)[-1]}"  # it found what it was to edit
    if command.startswith("source "):
        return f"{command} && command -v dvc kedro dagster mlflow"
    if command.startswith("kedro run"):
        return f"{command} --env {PROFILE}"
    if command.startswith("make "):
        profile = "" if "PROFILE=" in command else f" PROFILE={PROFILE}"
        return f"{MAKE} {command.removeprefix('make ')}{profile}"
    return command


@pytest.mark.parametrize(
    "command", [one for one in commands(README.read_text(encoding="utf-8")) if is_run(one) and one not in SERVERS]
)
def test_the_command_succeeds(project: Project, command: str) -> None:
    process = subprocess.run(
        ["bash", "-c", on_smoke(command)], cwd=project.path, env=ENVIRONMENT, input=TYPED.get(command, ""),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in process.stderr
    if command in REFUSED:
        assert process.returncode
        assert REFUSED[command] in process.stderr
    else:
        assert process.returncode == 0, f"{process.stdout[-3000:]}\n{process.stderr[-3000:]}"


@pytest.mark.parametrize("command", SERVERS)
def test_it_serves_until_ctrl_c(project: Project, command: str) -> None:
    port = free_port()
    with (project.path / "server.log").open("w+") as log:
        server = subprocess.Popen(
            ["bash", "-c", f"exec {on_smoke(command)} PORT={port}"], cwd=project.path, env=ENVIRONMENT,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            while not answers(port):
                assert server.poll() is None, Path(log.name).read_text()
                time.sleep(0.2)
        finally:
            os.killpg(server.pid, signal.SIGINT)  # as a terminal does
            server.wait()


def free_port() -> int:
    """Return a free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    """Return whether a page is served at the port."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as page:
            return bool(page.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
