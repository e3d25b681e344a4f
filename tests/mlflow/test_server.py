"""The follower against a real `mlflow server`, which dies and comes back while a stage runs."""

import http.client
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from pipelines.track.promotion import model_name
from pipelines.track.store import client
from tests.leaks import watched
from tests.mlflow.server import Server
from tests.pipelines.track.stage import Stage, expected, losses, rows, sft_runs
from tests.processes import await_state
from tests.project import PROFILE, Project
from tests.runs import Runs

pytestmark = pytest.mark.slow

STATUS = 7
PATIENCE_SECONDS = 180.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(autouse=True)
def surroundings() -> Iterator[None]:
    """Every test leaves what it met, but for the server, which a test may start again, and MLflow's variables."""
    with contextmanager(watched)(children_too=False), mock.patch.dict(os.environ):
        yield


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def follow(project: Project, uri: str) -> Any:
    """A command under the follower that goes on until the file `stop` is there, and ends with a status of its own."""
    command = ("sh", "-c", f"while [ ! -e stop ]; do sleep 0.2; done; exit {STATUS}")
    words = ("--env", PROFILE, "--tracking-uri", uri, "--follow", "--")
    return project.start("python", "-m", "pipelines.track", *words, *command)


def arrived(uri: str, last: int) -> bool:
    return any(losses(uri, run) == expected(1, last) for run in sft_runs(uri, PROFILE))


def answer(server: Server, **headers: str) -> int:
    """The status of a request with these headers."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", "/api/2.0/mlflow/experiments/search?max_results=1", headers=headers)
    return connection.getresponse().status


def test_the_pages_answer_to_names_of_this_machine_alone(server):
    for name in ("127.0.0.1", "localhost"):
        assert answer(server, Host=f"{name}:{server.port}") == answer(server, Host=name) == 200
    for name in ("evil.example", "10.evil.example", "192.168.evil.example", "localhost.evil.example", ""):
        assert answer(server, Host=f"{name}:{server.port}") == 403


def test_metrics_arrive_late_and_whole_when_the_server_was_away(project, server, monkeypatch):
    Runs(project.path, monkeypatch).add("pretrain", 1, PROFILE, metrics={"gain_over_bigram": 0.0})
    log = project.path / "started.log"
    stage = Stage(PROFILE)
    stage.append(rows(1, 50))
    command = follow(project, server.uri)
    await_state(lambda: arrived(server.uri, 50), output=log.read_text, every=0.5)
    server.kill()
    stage.append(rows(51, 80))
    await_state(lambda: "is away" in log.read_text(), output=log.read_text, every=0.5)
    assert command.poll() is None, "the command goes on"
    server.start()
    stage.append(rows(81, 90))
    await_state(lambda: arrived(server.uri, 90), output=log.read_text, every=0.5)
    stage.append(rows(91, 95))
    stage.end()
    (project.path / "stop").touch()
    assert command.wait(PATIENCE_SECONDS) == STATUS
    (run,) = sft_runs(server.uri, PROFILE)
    assert (run.info.status, losses(server.uri, run)) == ("FINISHED", expected(1, 95))
    assert log.read_text().count("is away") == 1
    version = client(server.uri).get_model_version_by_alias(model_name(PROFILE), "base")
    assert version.tags["k2.gate"] == "passed"


def test_a_server_that_is_gone_for_good_costs_the_command_nothing(project, tmp_path_factory, monkeypatch):
    with Server(tmp_path_factory.mktemp("server")) as server:
        Runs(project.path, monkeypatch).add("pretrain", 1, PROFILE, metrics={"gain_over_bigram": 0.0})
        stage, log = Stage(PROFILE), project.path / "started.log"
        stage.append(rows(1, 10))
        command = follow(project, server.uri)
        await_state(lambda: arrived(server.uri, 10), output=log.read_text, every=0.5)
        server.kill()
        stage.append(rows(11, 20))
        stage.end()
        (project.path / "stop").touch()
        assert command.wait(PATIENCE_SECONDS) == STATUS
        assert "could not take the run records" in log.read_text()
        server.start()
        project.run("python", "-m", "pipelines.track", "--env", PROFILE, "--tracking-uri", server.uri)
        (run,) = sft_runs(server.uri, PROFILE)
        assert (run.info.status, losses(server.uri, run)) == ("FINISHED", expected(1, 20))
