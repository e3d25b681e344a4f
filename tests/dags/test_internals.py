"""What is used of Dagster beyond its public interface is where Dagster 1.13.27 has it."""

import importlib
import inspect
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

from dags import internals
from engine.errors import UserError

MOVED = "Dagster has moved away from 1.13.27: write dags/internals.py anew, since "


def test_the_page_s_application_is_made_from_the_name_that_is_replaced() -> None:
    from dagster_webserver import app

    used = app.create_app_from_workspace_process_context.__code__.co_names
    assert "DagsterWebserver" in used, f"{MOVED}the page would be served without its guards."


def test_dagster_dev_starts_page_and_daemon_by_the_name_that_is_replaced() -> None:
    source = inspect.getsource(importlib.import_module("dagster._cli.dev"))
    for words in (internals.PAGE, internals.DAEMON):
        start = f'open_ipc_subprocess([sys.executable, "{words[0]}", "{words[1]}"'
        assert start in "".join(source.split()).replace(",", ", "), f"{MOVED}`dagster dev` does not {start}."


def test_the_coordinator_that_dagster_yaml_names_is_there() -> None:
    coordinators = importlib.import_module(internals.COORDINATORS)
    assert hasattr(coordinators, "DefaultRunCoordinator"), f"{MOVED}dagster.yaml names a coordinator that is not there."


def test_the_page_is_ours_the_daemon_is_dagster_s_and_another_process_is_refused() -> None:
    started: list[Any] = []
    start = internals.starting(["our", "page"], lambda words, **more: started.append((words, more)))
    start([sys.executable, "-m", "dagster_webserver", "--port", "1"], stdout=subprocess.PIPE)
    start([sys.executable, "-m", "dagster._daemon", "run"])
    assert started == [
        (["our", "page", "--port", "1"], {"stdout": subprocess.PIPE}),
        ([sys.executable, "-m", "dagster._daemon", "run"], {}),
    ]
    with pytest.raises(UserError, match="`dagster dev` that starts .* install Dagster 1.13.27"):
        start(["dagster-webserver", "--port", "1"])


def test_a_name_that_is_gone_is_refused_in_one_sentence() -> None:
    module = ModuleType("dagster_webserver.app")
    with pytest.raises(UserError, match=r"has no dagster_webserver.app.DagsterWebserver, which 1.13.27 had"):
        internals.replace(module, "DagsterWebserver", object)
    assert "DagsterWebserver" not in vars(module)
