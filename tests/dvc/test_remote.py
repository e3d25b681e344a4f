"""Push, fresh clone, pull: nothing is left to run, for DVC and for the plan. With a path and a real S3 server."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine.artifacts import kept
from engine.artifacts.files import files_below
from engine.artifacts.manifest import MANIFEST, content_digest
from pipelines.stages_file import load_stages_file
from tests.dvc.conftest import IDENTITY, ran
from tests.project import ENVIRONMENT, LEDGER, PROFILE, Project

pytestmark = pytest.mark.slow
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Start moto's server on loopback with one bucket; yield its address."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    for name, value in KEYS.items():
        monkeypatch.setitem(ENVIRONMENT, name, value)
    with (tmp_path / "moto.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=log, stderr=log, env={**os.environ, **KEYS},
        )  # fmt: skip
    try:
        _answers(url, server)
        urllib.request.urlopen(urllib.request.Request(f"{url}/bucket", method="PUT")).close()
        yield url
    finally:
        server.terminate()
        server.wait()


def _answers(url: str, server: "subprocess.Popen[bytes]") -> None:
    for _ in range(600):
        assert server.poll() is None, "moto's server did not start: `make test-dvc` installs it"
        try:
            urllib.request.urlopen(url).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("moto's server does not answer")


@contextmanager
def remote(project: Project, *words: str) -> Iterator[None]:
    """Set the default remote in .dvc/config, committed as a team does, and remove it afterwards."""
    before = project.run("git", "rev-parse", "HEAD").stdout.strip()
    for line in words:
        project.run("dvc", "remote", *line.split())
    project.run("git", *IDENTITY, "commit", "-qam", "remote")
    try:
        yield
    finally:
        project.run("git", "reset", "-q", "--hard", before)


def clone(project: Project, path: Path) -> Project:
    """Return a fresh clone, without cache and data."""
    subprocess.run(["git", "clone", "-q", str(project.path), str(path)], check=True)
    copy = Project.__new__(Project)
    copy.path, copy.environment = path, {}
    return copy


def push_and_pull(made: Project, tmp_path: Path) -> Project:
    """Push, clone and pull; return the clone, in which nothing is left to run."""
    made.run("dvc", "push", LEDGER)
    fresh = clone(made, tmp_path / "fresh")
    assert [path.name for path in (fresh.path / "data").iterdir()] == ["README.md"], "a clone brings no data along"
    fresh.run("dvc", "pull", LEDGER)
    assert ran(fresh.repro().stdout) == ["code"]
    stages = load_stages_file().stages
    for stage in stages:
        assert fresh.digests(stage) == made.digests(stage)
    compared = json.loads(fresh.run("dvc", "metrics", "diff", "--all", "--json", "HEAD").stdout)
    assert {f"data/{PROFILE}/{stage}/metrics.json" for stage in stages} <= set(compared), "metrics come with the pull"
    assert not any(metric.get("diff") for metrics in compared.values() for metric in metrics.values()), "those of HEAD"
    what_was_pulled_is_recorded(made, fresh)
    return fresh


def what_was_pulled_is_recorded(made: Project, fresh: Project) -> None:
    """The plan says fresh, by records with the keys of the runs elsewhere that do not pass for runs."""
    for stage in load_stages_file().stages:
        run, (pulled,) = made.records(stage)[-1], fresh.records(stage)
        assert (pulled["key"], pulled["outputs"], pulled["metrics"]) == (run["key"], run["outputs"], run["metrics"])
        assert (pulled["outcome"], pulled["origin"]) == ("pulled", {"pulled": LEDGER.replace(".yaml", ".lock")})
    assert plan(fresh).splitlines()[-1] == "All is fresh."
    assert ran(fresh.repro().stdout) == ["code"]
    assert set(fresh.runs().values()) == {1}, "what has a record gets no other"


def plan(project: Project) -> str:
    return project.run("python", "-m", "pipelines.commands.plan", "--env", PROFILE).stdout.rstrip()


def test_a_path(made: Project, tmp_path: Path) -> None:
    with remote(made, f"add -d away {tmp_path}/remote"):
        fresh = push_and_pull(made, tmp_path)
    what_was_pulled_is_kept(fresh)
    an_edit_that_is_taken_back_costs_no_run(fresh)
    edits_on_the_clone_cost_one_run_each(fresh)


def what_was_pulled_is_kept(fresh: Project) -> None:
    """Every published directory is in the clone's store as links to the pulled files, checked against its manifest."""
    published = [path.parent for path in fresh.data().glob(f"[a-z]*/*/{MANIFEST}")]
    assert len(published) > 20
    for path in published:
        version = fresh.data(".store", str(content_digest(path)))
        stage, dataset = path.relative_to(fresh.data()).parts
        kept.check(version, stage=stage, dataset=dataset, since=None)
        for file in files_below(path):
            assert file.name == MANIFEST or file.samefile(version / file.relative_to(path))


def an_edit_that_is_taken_back_costs_no_run(fresh: Project) -> None:
    """The pulled version comes back from the clone's store, with its readers', as one that was made here would."""
    parameters, pulled = f"conf/{PROFILE}/parameters/sft.yml", fresh.digests("sft")
    fresh.edit(parameters, "  steps: 8\n", "  steps: 9\n")
    fresh.repro("-s", f"{LEDGER}:code", f"{LEDGER}:sft")
    assert fresh.digests("sft") != pulled
    fresh.edit(parameters, "  steps: 9\n", "  steps: 8\n")
    process = fresh.repro()
    assert "stage sft  was pulled under this key before" in process.stdout + process.stderr
    assert fresh.digests("sft") == pulled
    first, _, back = fresh.records("sft")
    assert [record["outcome"] for record in fresh.records("sft")] == ["pulled", "success", "recalled"]
    assert back["origin"] == {**first["origin"], "record": first["path"].name}
    assert [len(fresh.records(stage)) for stage in ("rl", "evaluate")] == [1, 1], "they read what they read before"
    assert plan(fresh).splitlines()[-1] == "All is fresh."


def edits_on_the_clone_cost_one_run_each(fresh: Project) -> None:
    """A version that the clone has made comes back from its store, and the pulled one, too."""
    target, parameters = ("-s", f"{LEDGER}:code", f"{LEDGER}:tooluse"), f"conf/{PROFILE}/parameters/tooluse.yml"
    pulled = fresh.digests("tooluse")
    for seed in (98, 99, 98):
        fresh.append(parameters, f"  seed: {seed}\n")
        fresh.repro(*target)
        fresh.edit(parameters, f"  seed: {seed}\n", "")
    assert fresh.digests("tooluse") != pulled
    fresh.repro(*target)
    assert [record["outcome"] for record in fresh.records("tooluse")] == [
        "pulled", "success", "success", "recalled", "recalled",
    ]  # fmt: skip
    assert fresh.digests("tooluse") == pulled
    assert ran(fresh.repro(*target).stdout) == ["code"]


def test_an_s3_server(made: Project, tmp_path: Path, s3: str) -> None:
    with remote(made, "add -d bucket s3://bucket/k2", f"modify bucket endpointurl {s3}"):
        push_and_pull(made, tmp_path)


def test_a_cache_that_is_gone_is_filled_from_the_remote(made: Project, tmp_path: Path) -> None:
    before = made.digests("sft")
    with remote(made, f"add -d away {tmp_path}/remote"):
        made.run("dvc", "push", LEDGER)
        shutil.rmtree(made.path / ".dvc/cache")
        shutil.rmtree(made.data("sft", "sft_checkpoint"))
        made.run("dvc", "pull", LEDGER)
    assert made.digests("sft") == before
