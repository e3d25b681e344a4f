"""Dagster's home and page."""

import socket

import pytest
import yaml

from dags import ui, versions
from dags.home import chosen_profile, dagster_home
from engine.errors import UserError
from pipelines import code_files, graph


def test_home_is_made_once_and_what_it_holds_stays(tmp_path):
    home = tmp_path / "home"
    ui.prepare_home(home)
    (home / "history").write_text("events")
    ui.prepare_home(home)
    assert (home / "history").read_text() == "events"
    settings = yaml.safe_load((home / "dagster.yaml").read_text())
    assert settings["telemetry"] == settings["nux"] == {"enabled": False}
    assert settings["run_coordinator"]["class"] == "DefaultRunCoordinator"


@pytest.mark.parametrize("name", [".dagster", ".dagster/smoke"])
def test_a_file_in_the_place_of_the_home_is_named_with_its_remedy(name, tmp_path):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("of somebody")
    with pytest.raises(UserError, match=f"^{file} is a file where .*`mv {file} {file}.old`"):
        ui.prepare_home(tmp_path / ".dagster" / "smoke")
    assert file.read_text() == "of somebody"


def test_profiles_have_homes_of_their_own(monkeypatch):
    monkeypatch.setenv("K2_PROFILE", "smoke")
    assert dagster_home(chosen_profile()) != dagster_home("laptop")


def test_a_taken_port_is_refused_in_one_sentence():
    with socket.socket() as listener:
        listener.bind((ui.HOST, 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(UserError, match=f"127.0.0.1:{port} cannot be used .*--port {port + 1}"):
            ui._require_free(port)


@pytest.mark.parametrize("port", [-1, 70000])
def test_a_number_that_is_no_port_is_refused_in_one_sentence(port):
    with pytest.raises(
        UserError, match=f"{port} is not a port: give one from 1024 to 65535 by `python -m dags.ui --port`"
    ):
        ui._require_free(port)


def test_code_versions_are_remembered_until_a_file_is_touched(runs, tmp_path, monkeypatch):
    cache = tmp_path / "versions.json"
    assert versions.code_versions("smoke", cache) == {}, "no run, nothing to compare with"
    runs.add("corpus", 1)
    calls = []
    monkeypatch.setattr(versions, "_current", lambda stage, *_: calls.append(stage) or f"v{len(calls)}")
    watched = tmp_path / "engine"
    watched.mkdir()
    (watched / "loop.py").write_text("a")
    monkeypatch.setattr(versions, "ROOT", tmp_path)
    first = versions.code_versions("smoke", cache)
    assert versions.code_versions("smoke", cache) == first
    assert len(calls) == len(first)
    (watched / "loop.py").write_text("ab")
    assert versions.code_versions("smoke", cache) != first
    cache.write_text("{broken")
    assert set(versions.code_versions("smoke", cache)) == set(first)


def test_a_record_and_the_working_tree_give_one_version():
    stage = "corpus"
    resolved = graph.parameters("smoke")
    from engine.identity.key import flatten

    parts = code_files.stage_file(stage, "smoke")
    version = versions.code_version(parts["code"], flatten({"corpus": resolved["corpus"]}), parts["sources"])
    assert versions._current(stage, resolved, "smoke") == version
