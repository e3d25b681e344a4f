"""Dagster's real page over a scratch copy of the repository, and the queries of the tests."""

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
    """The page of `make ui` on the smoke profile of a copy in which the data stages were made in a shell."""

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
        """Stop the page by Ctrl-C."""
        self._server.send_signal(signal.SIGINT)
        self._server.wait(90)

    def wait(self, what: str, holds: Any) -> Any:
        """Call `holds()` until its result is true; return the result."""
        deadline = time.monotonic() + PATIENCE
        while not (result := holds()):
            assert self._server.poll() is None, (self.project.path / "ui.log").read_text()
            assert time.monotonic() < deadline, f"after {PATIENCE:.0f} s still not: {what}"
            time.sleep(1)
        return result

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """Return the reply to a GraphQL query."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.address}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            reply = json.load(answer)
        assert "errors" not in reply, reply["errors"]
        return dict(reply["data"])

    def reload(self) -> None:
        """Press the page's button "Reload definitions"."""
        assert self.ask(RELOAD, location="dags.definitions")["reloadRepositoryLocation"]["__typename"] != "PythonError"

    def launch(self, job: str, assets: list[str] | None = None) -> tuple[str, list[str], list[str]]:
        """Launch a job and wait for its end; return its status, steps, and the messages of its events and errors."""
        selector = {**LOCATION, "pipelineName": job}
        if assets:
            selector["assetSelection"] = [{"path": [name]} for name in assets]
        launched = self.ask(LAUNCH, parameters={"selector": selector, "mode": "default"})["launchPipelineExecution"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        run = launched["run"]["runId"]
        ended = self.wait(f"run of {job} ends", lambda: self._ended(run))
        events = ended["eventConnection"]["events"]
        messages = [event.get("message") or "" for event in events]
        messages += [event["error"]["message"] for event in events if event.get("error")]
        return ended["status"], [step["stepKey"] for step in ended["stepStats"]], messages

    def badges(self) -> dict[str, tuple[str, str]]:
        """Return asset → Dagster's own mark, and the check `plan`'s sentence (empty if it was never evaluated)."""
        return {
            node["assetKey"]["path"][0]: (node["staleStatus"], _plan(node)) for node in self.ask(ASSETS)["assetNodes"]
        }

    def materialisations(self, asset: str) -> int:
        """Return the number of an asset's materialisations."""
        return len(self.ask(MADE, asset={"path": [asset]})["assetOrError"]["assetMaterializations"])

    def plan(self) -> dict[str, tuple[str, str]]:
        """Return stage → state and reason, from a process of its own."""
        code = (
            "import json; from pipelines.status import stage_status; "
            f"print(json.dumps({{s: (x.state, x.reason) for s, x in stage_status({PROFILE!r}).items()}}))"
        )
        return {
            stage: tuple(entry)
            for stage, entry in json.loads(self.project.run(sys.executable, "-c", code).stdout).items()
        }

    def _ended(self, run: str) -> dict[str, Any] | None:
        run_or_error = self.ask(RUN, id=run)["runOrError"]
        return run_or_error if run_or_error["status"] in ("SUCCESS", "FAILURE", "CANCELED") else None

    def _answers(self) -> bool:
        try:
            return bool(self.ask("{ version }")) and len(self.ask(ASSETS)["assetNodes"]) > 0
        except OSError:
            return False


def outputs() -> dict[str, str]:
    """Return asset → its stage."""
    return {name: stage for stage in load_stages_file().stages for name in graph.stage_graph(stage).outputs}


def _plan(node: dict[str, Any]) -> str:
    (check,) = [check for check in node["assetChecksOrError"]["checks"] if check["name"] == "plan"]
    execution = check["executionForLatestMaterialization"]
    return str(execution["evaluation"]["description"]) if execution and execution["evaluation"] else ""


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
