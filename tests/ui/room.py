"""Dagster's real page over a scratch copy of the repository, and what may be asked of it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from pipelines import graph
from pipelines.stages_file import load_stages_file
from tests.project import ENVIRONMENT, LEDGER, PROFILE, Project

MADE_IN_A_SHELL = ("corpus", "rephrase", "tooluse", "tokenization")
PATIENCE = 600.0  # seconds, on a machine that others use too
LOCATION = {"repositoryName": "__repository__", "repositoryLocationName": "dags.definitions"}

ASSETS = """{ assetNodes { assetKey { path } staleStatus assetChecksOrError { ... on AssetChecks { checks {
  name executionForLatestMaterialization { status evaluation { severity success description } } } } } } }"""
MADE = """query($asset: AssetKeyInput!) { assetOrError(assetKey: $asset) { ... on Asset {
  assetMaterializations { runId } } } }"""
RELOAD = """mutation($location: String!) { reloadRepositoryLocation(repositoryLocationName: $location) {
  __typename ... on PythonError { message } } }"""
LAUNCH = """mutation($parameters: ExecutionParams!) { launchPipelineExecution(executionParams: $parameters) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
RUN = """query($id: ID!) { runOrError(runId: $id) { ... on Run { status stepStats { stepKey status }
  eventConnection { events { __typename ... on MessageEvent { message }
  ... on ExecutionStepFailureEvent { error { message } } } } } } }"""


class Room:
    """`make ui` on the smoke profile of a copy in which the data stages were made in a shell."""

    def __init__(self, path: Path) -> None:
        self.project = Project(path)
        self.project.repro("-s", f"{LEDGER}:code", *(f"{LEDGER}:{stage}" for stage in MADE_IN_A_SHELL))
        self.port = _free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "dags.ui", "--port", str(self.port)]
        with (self.project.path / "ui.log").open("w") as log:
            self._server = subprocess.Popen(
                command, cwd=self.project.path, stdout=log, stderr=log,
                env={**ENVIRONMENT, "K2_PROFILE": PROFILE}, preexec_fn=_interruptible,  # noqa: PLW1509 - no threads
            )  # fmt: skip
        self.wait("the page answers", self._answers)
        self.wait("the runs in the shell are reported", lambda: self.badges()["shards"][0] == "FRESH")

    def close(self) -> None:
        """Ctrl-C."""
        self._server.send_signal(signal.SIGINT)
        self._server.wait(90)

    def wait(self, what: str, holds: Any) -> Any:
        """Ask `holds()` until it is true; return what it said."""
        deadline = time.monotonic() + PATIENCE
        while not (found := holds()):
            assert self._server.poll() is None, (self.project.path / "ui.log").read_text()
            assert time.monotonic() < deadline, f"after {PATIENCE:.0f} s still not: {what}"
            time.sleep(1)
        return found

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """A GraphQL answer."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.address}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = json.load(answer)
        assert "errors" not in found, found["errors"]
        return dict(found["data"])

    def reload(self) -> None:
        """The page's button "Reload definitions"."""
        assert self.ask(RELOAD, location="dags.definitions")["reloadRepositoryLocation"]["__typename"] != "PythonError"

    def launch(self, job: str, assets: list[str] | None = None) -> tuple[str, list[str], list[str]]:
        """Launch a job and wait for its end: status, steps, what its events and errors say."""
        selector = {**LOCATION, "pipelineName": job}
        if assets:
            selector["assetSelection"] = [{"path": [name]} for name in assets]
        launched = self.ask(LAUNCH, parameters={"selector": selector, "mode": "default"})["launchPipelineExecution"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        run = launched["run"]["runId"]
        done = self.wait(f"run of {job} ends", lambda: self._ended(run))
        events = done["eventConnection"]["events"]
        said = [event.get("message") or "" for event in events]
        said += [event["error"]["message"] for event in events if event.get("error")]
        return done["status"], [step["stepKey"] for step in done["stepStats"]], said

    def badges(self) -> dict[str, tuple[str, str]]:
        """Asset → Dagster's own mark, and the check `plan`'s sentence (empty if it was never evaluated)."""
        return {
            node["assetKey"]["path"][0]: (node["staleStatus"], _plan(node)) for node in self.ask(ASSETS)["assetNodes"]
        }

    def materialisations(self, asset: str) -> int:
        """How often Dagster has an asset down as made."""
        return len(self.ask(MADE, asset={"path": [asset]})["assetOrError"]["assetMaterializations"])

    def plan(self) -> dict[str, tuple[str, str]]:
        """Stage → state and reason, from a process of its own."""
        code = (
            "import json; from pipelines.status import stage_status; "
            f"print(json.dumps({{s: (x.state, x.reason) for s, x in stage_status({PROFILE!r}).items()}}))"
        )
        return {
            stage: tuple(found)
            for stage, found in json.loads(self.project.run(sys.executable, "-c", code).stdout).items()
        }

    def _ended(self, run: str) -> dict[str, Any] | None:
        found = self.ask(RUN, id=run)["runOrError"]
        return found if found["status"] in ("SUCCESS", "FAILURE", "CANCELED") else None

    def _answers(self) -> bool:
        try:
            return bool(self.ask("{ version }")) and len(self.ask(ASSETS)["assetNodes"]) > 0
        except OSError:
            return False


def outputs() -> dict[str, str]:
    """Asset → its stage."""
    return {name: stage for stage in load_stages_file().stages for name in graph.stage_graph(stage).outputs}


def _plan(node: dict[str, Any]) -> str:
    (check,) = [check for check in node["assetChecksOrError"]["checks"] if check["name"] == "plan"]
    done = check["executionForLatestMaterialization"]
    return str(done["evaluation"]["description"]) if done and done["evaluation"] else ""


def _free_port() -> int:
    for port in range(3600, 3650):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no free port between 3600 and 3650")


def _interruptible() -> None:
    """A job in a shell's background ignores Ctrl-C, and so would the server."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setpgrp()
