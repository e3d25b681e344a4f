"""Payloads by hash, end to end: DVC holds manifests alone, and an older manifest finds its older payload."""

import shutil
from pathlib import Path

import pytest

from engine.artifacts.files import digest_file, files_below
from engine.artifacts.manifest import MANIFEST, content_digest
from engine.artifacts.sums import SUMS
from pipelines.commands.payloads import SHORT
from tests.dvc.conftest import commit, ran
from tests.project import LEDGER, PROFILE, Project

pytestmark = pytest.mark.slow
STAGES = ["corpus", "rephrase", "tooluse", "tokenization"]
TARGET = f"{LEDGER}:tokenization"
KEPT_BY_HASH = ("documents", "trajectories", "shards")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return smoke's data with a cluster's setting `payload: by_hash`."""
    scratch = Project(tmp_path_factory.mktemp("by_hash"))
    scratch.append(f"conf/{PROFILE}/globals.yml", "payload: by_hash\n")
    scratch.run("python", "-m", "dags.dvc_yaml")
    process = scratch.repro(TARGET)
    assert sorted(ran(process.stdout)) == sorted(["code", *STAGES])
    commit(scratch, "as made")
    return scratch


def load(project: Project, dataset: str, check: bool = True) -> tuple[int, str]:
    """Load a dataset as a stage would; return the exit status and the output."""
    script = (
        "from pipelines import graph; from pipelines.errors import report_errors\n"
        f"with report_errors(): graph.dataset({PROFILE!r}, {dataset!r}).load()"
    )
    process = project.run("python", "-c", script, check=check)
    return process.returncode, process.stderr


def test_no_payload_enters_dvcs_cache(project: Project) -> None:
    cached = {digest_file(path) for path in files_below(project.path / ".dvc/cache")}
    payload = [file for path in by_hash(project) for file in files_below(path) if file.name not in {MANIFEST, SUMS}]
    assert len(payload) >= 10
    assert not cached & {digest_file(path) for path in payload}
    manifests = {digest_file(path) for path in files_below(project.data(".store")) if path.name == MANIFEST}
    assert manifests <= cached, "what DVC holds is the manifests"
    assert all(path.parent.is_dir() and path.is_symlink() for path in project.data("tokenization/shards").glob("*.bin"))


def test_a_second_repro_runs_nothing_but_code(project: Project) -> None:
    assert ran(project.repro(TARGET).stdout) == ["code"]


def test_an_older_manifest_finds_its_payload(project: Project) -> None:
    before = {stage: project.digests(stage) for stage in STAGES}
    old = content_digest(project.data("tooluse/trajectories"))
    project.append(f"conf/{PROFILE}/parameters/tooluse.yml", "  seed: 99\n")
    project.repro(TARGET)
    assert content_digest(project.data("tooluse/trajectories")) != old
    project.run("git", "checkout", "-q", "--", ".")
    project.run("dvc", "checkout", "-f", *(f"{LEDGER}:{stage}" for stage in STAGES))
    assert content_digest(project.data("tooluse/trajectories")) == old
    for name in KEPT_BY_HASH:
        load(project, name)
    assert ran(project.repro(TARGET).stdout) == ["code"]
    assert {stage: project.digests(stage) for stage in STAGES} == before


def test_what_nobody_asks_for_any_more_is_listed_and_removed(project: Project) -> None:
    """DVC's cache needs the payload of the seed that was tried above until `dvc gc`; then its run, if recent."""
    sealed = [path.parent for path in project.data().glob(f"[a-z]*/*/{MANIFEST}")]
    published = {str(content_digest(path))[:SHORT] for path in sealed}
    older = stored(project) - published
    without_copy = {path.name[:SHORT] for path in by_hash(project)} & older
    assert without_copy
    in_use = dict.fromkeys(published, "published")
    recent = in_use | dict.fromkeys(older, "a recent run")
    assert needed_by(project) == recent | dict.fromkeys(without_copy, "DVC's cache")
    project.run("dvc", "gc", "--workspace", "--force")
    assert needed_by(project) == recent
    assert needed_by(project, "--days", "0") == in_use | dict.fromkeys(older, "nobody")
    words = ("--gc", "--check", "--days", "0")
    process = project.run("python", "-m", "pipelines.commands.payloads", "--env", PROFILE, *words)
    assert process.stdout.startswith(f"{len(older)} payloads removed, ")
    assert stored(project) == published
    assert ran(project.repro(TARGET).stdout) == ["code"]


def by_hash(project: Project) -> list[Path]:
    """Return the payloads in the store that are the only copy of their files: the hashes of those are remembered."""
    return [path.parent for path in project.data(".store").glob(f"*/{SUMS}")]


def stored(project: Project) -> set[str]:
    return {path.name[:SHORT] for path in project.data(".store").iterdir() if path.is_dir()}


def needed_by(project: Project, *words: str) -> dict[str, str]:
    """Return digest → who needs it, from the table that a user reads."""
    table = project.run("python", "-m", "pipelines.commands.payloads", "--env", PROFILE, *words).stdout
    rows = [[cell.strip() for cell in line.split("│")] for line in table.splitlines() if line.count("│") > 2]
    return {digest: by for _, _, digest, by, places, *_ in rows if places.endswith("store")}


def test_a_payload_that_is_gone_is_refused_in_one_sentence(project: Project) -> None:
    digest = content_digest(project.data("tooluse/trajectories"))
    payload, aside = project.data(".store", str(digest)), project.data("aside")
    payload.rename(aside)
    status, output = load(project, "trajectories", check=False)
    assert status == 1
    assert f"its payload {digest} is gone" in output.strip().splitlines()[-1]
    assert "Traceback" not in output
    project.run("dvc", "repro", "-f", "-s", f"{LEDGER}:tooluse")  # the remedy that the sentence names
    load(project, "trajectories")
    shutil.rmtree(aside)


def test_a_truncated_payload_is_refused(project: Project) -> None:
    victim = next(iter(sorted(project.data("tokenization/shards").glob("*.bin")))).resolve()
    content = victim.read_bytes()
    victim.write_bytes(content[:-4])
    status, output = load(project, "shards", check=False)
    assert status == 1
    assert "bytes where manifest.json says" in output.strip().splitlines()[-1]
    checked = project.run("python", "-m", "pipelines.commands.payloads", "--env", PROFILE, "--check", check=False)
    assert checked.returncode == 1
    assert f"changed since they were sealed: {victim.parent} (tokenization/shards)" in checked.stderr
    victim.write_bytes(content)
    load(project, "shards")
