"""Outputs made before under the same key come back: neither DVC nor a user makes them again."""

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest

from engine.artifacts.files import digest_file, files_below
from engine.artifacts.manifest import MANIFEST
from tests.dvc.conftest import commit, ran
from tests.project import LEDGER, PROFILE, Project

pytestmark = pytest.mark.slow
STAGE = "tooluse"
TARGET = f"{LEDGER}:{STAGE}"
PARAMETERS = f"conf/{PROFILE}/parameters/{STAGE}.yml"
OTHER = "  seed: 99\n"


@pytest.fixture(scope="module")
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project in which one stage was made, with its payload kept as the parameter says."""
    scratch = Project(tmp_path_factory.mktemp(request.param))
    scratch.append(f"conf/{PROFILE}/globals.yml", f"payload: {request.param}\n")
    scratch.run("python", "-m", "dags.dvc_yaml")
    scratch.repro(TARGET)
    commit(scratch, "as made")
    return scratch


def there_and_back(project: Project) -> tuple[dict[str, str], str]:
    """Make the stage with another seed, go back, and run DVC; return the first outputs, and DVC's output."""
    before = project.digests(STAGE)
    project.append(PARAMETERS, OTHER)
    project.repro(TARGET)
    assert project.digests(STAGE) != before
    project.edit(PARAMETERS, OTHER, "")
    process = project.repro(TARGET)
    assert STAGE in ran(process.stdout)
    return before, process.stdout + process.stderr


def outcomes(project: Project) -> list[str]:
    return [record["outcome"] for record in project.records(STAGE)]


@pytest.mark.parametrize("project", ["by_hash", "inline"], indirect=True)
def test_it_comes_back_and_is_fresh(project: Project) -> None:
    before, output = there_and_back(project)
    assert "has run under this key before" in output
    assert project.digests(STAGE) == before
    first, _, back = project.records(STAGE)
    assert outcomes(project) == ["success", "success", "recalled"]
    assert back["origin"] == {"record": first["path"].name}
    assert (back["key"], back["outputs"], back["metrics"]) == (first["key"], first["outputs"], first["metrics"])
    plan = project.run("python", "-m", "pipelines.commands.plan", "--env", PROFILE).stdout
    (line,) = [line for line in plan.splitlines() if STAGE in line]
    assert "fresh" in line
    assert "brought back" in plan
    assert ran(project.repro(TARGET).stdout) == ["code"]


@pytest.mark.parametrize("project", ["inline"], indirect=True)
def test_who_asks_for_a_run_gets_one(project: Project) -> None:
    """The stage is fresh, would come back, or is unfinished."""
    key = project.records(STAGE)[-1]["key"]
    project.run("dvc", "repro", "-f", "-s", TARGET)
    project.run("dvc", "repro", "-f", TARGET)
    project.append(PARAMETERS, OTHER)
    project.run("python", "-m", "pipelines.commands.repro", "--env", PROFILE, "--stage", STAGE, "--force")
    project.edit(PARAMETERS, OTHER, "")
    begun = project.data(".work", STAGE, key)
    begun.mkdir()
    (begun / ".attempts").write_text(".")
    project.repro(TARGET)
    assert outcomes(project)[-4:] == ["success"] * 4


@pytest.mark.parametrize("project", ["inline"], indirect=True)
def test_what_is_damaged_or_gone_is_made_again(project: Project) -> None:
    """A kept file of the version to come back has other content: none of it comes back.

    DVC's cache has it still, but its ledger names the other version.
    """
    table = table_of(project)
    digest = digest_file(table)
    project.append(PARAMETERS, OTHER)
    project.repro(TARGET)
    assert outcomes(project)[-1] == "recalled", "the other one comes back too: going back and forth costs nothing"
    (copy,) = [path for path in files_below(project.data(".store")) if digest_file(path) == digest]
    copy.chmod(0o644)
    copy.write_bytes(copy.read_bytes()[:-1] + b"?")
    project.edit(PARAMETERS, OTHER, "")
    process = project.repro(TARGET)
    assert "its trajectories is not kept any more: it runs again" in process.stdout + process.stderr
    assert outcomes(project)[-1] == "success"
    assert digest_file(table) == digest


@pytest.mark.parametrize("project", ["inline"], indirect=True)
def test_what_was_made_without_dvc_is_entered_without_a_run(project: Project) -> None:
    """After `kedro run` (`make smoke`) DVC's ledger knows nothing; the plan says fresh, and DVC makes nothing again."""
    third = "  seed: 77\n"
    project.append(PARAMETERS, third)
    project.run("python", "-m", "pipelines.commands.code", "--env", PROFILE)
    project.run("kedro", "run", "--env", PROFILE, "--pipelines", STAGE)
    assert state(project) == "fresh"
    before = len(outcomes(project))
    process = project.repro(TARGET)
    assert ran(process.stdout) == ["code", STAGE]
    assert "nothing to do" in process.stdout + process.stderr
    assert len(outcomes(project)) == before, "no run, no record"
    assert not list(project.data(".work", STAGE).glob("*/"))
    assert ran(project.repro(TARGET).stdout) == ["code"]
    project.edit(PARAMETERS, third, "")
    project.repro(TARGET)


@pytest.mark.parametrize("project", ["inline"], indirect=True)
def test_damage_is_planned_and_healed_from_the_cache(project: Project) -> None:
    """The error's own command heals the damage, and names the profile."""
    before = project.digests(STAGE)
    table = table_of(project)
    for harm in (flip_without_a_trace, Path.unlink):
        harm(table)
        if harm is flip_without_a_trace:
            assert state(project) == "fresh", "sizes and times are as they were"
            assert state(project, "--verify") == "recalled"
        assert state(project) == "recalled"
        heal(project, refusal(project, "trajectories"))
        assert project.digests(STAGE) == before
        assert outcomes(project)[-1] == "recalled"
        assert state(project) == "fresh"


@pytest.mark.parametrize("project", ["inline"], indirect=True)
def test_damage_that_no_copy_heals_is_planned_and_costs_a_run(project: Project) -> None:
    """The kept file is the published one; DVC's cache is gone."""
    before = project.digests(STAGE)
    shutil.rmtree(project.path / ".dvc/cache")
    flip_without_a_trace(table_of(project))
    assert state(project, "--verify") == "stale"
    assert state(project) == "stale"
    heal(project, refusal(project, "trajectories"))
    assert outcomes(project)[-1] == "success"
    assert project.digests(STAGE) == before
    assert state(project) == "fresh"


@pytest.mark.parametrize("project", ["inline"], indirect=True)
def test_neither_gc_nor_a_deleted_cache_costs_a_run(project: Project) -> None:
    """The store alone brings a version back; plan says so before."""
    before = project.digests(STAGE)
    for lose in (
        lambda: project.run("dvc", "gc", "--workspace", "--force"),
        lambda: shutil.rmtree(project.path / ".dvc/cache"),
    ):
        project.append(PARAMETERS, OTHER)
        project.repro(TARGET)
        assert project.digests(STAGE) != before
        runs = outcomes(project).count("success")
        lose()
        project.edit(PARAMETERS, OTHER, "")
        project.run("python", "-m", "pipelines.commands.code", "--env", PROFILE)
        assert state(project) == "recalled"
        project.repro(TARGET)
        assert outcomes(project)[-1] == "recalled"
        assert project.digests(STAGE) == before
    project.append(PARAMETERS, OTHER)
    project.repro(TARGET)
    project.edit(PARAMETERS, OTHER, "")
    project.repro(TARGET)
    assert outcomes(project).count("success") == runs, "the other version is kept, too"


@pytest.mark.parametrize("project", ["inline"], indirect=True)
def test_a_deleted_output_comes_back_from_the_store(project: Project) -> None:
    before = project.digests(STAGE)
    project.repro(TARGET)
    shutil.rmtree(project.path / ".dvc/cache")
    shutil.rmtree(project.data(STAGE, "trajectories"))
    assert state(project) == "recalled"
    project.repro(TARGET)
    assert outcomes(project)[-1] == "recalled"
    assert project.digests(STAGE) == before


@pytest.mark.parametrize("project", ["inline"], indirect=True)
def test_the_stage_and_the_store_share_inodes(project: Project) -> None:
    """However a version came, what is published is the kept file under a second name, so `data/` has it once.

    DVC's cache is no part of this: its own copy is the price of healing damage in place without a run.
    """
    make = ("python", "-m", "pipelines.commands.repro", "--env", PROFILE, "--stage", STAGE)
    project.run(*make, "--force")
    project.append(PARAMETERS, OTHER)
    project.run(*make)
    project.edit(PARAMETERS, OTHER, "")
    for settle in (
        lambda: project.run(*make),
        lambda: project.run("dvc", "commit", "-f", TARGET) and project.run(*make),
        lambda: shutil.rmtree(project.data(STAGE, "tasks")) or project.run(*make),
        lambda: project.run("kedro", "run", "--env", PROFILE, "--pipelines", STAGE),
    ):
        settle()
        assert not {digest: numbers for digest, numbers in inodes(project).items() if len(numbers) > 1}
        published = [path for path in files_below(project.data(STAGE)) if path.suffix == ".parquet"]
        assert {path.stat().st_nlink for path in published} == {2}
        assert {path.stat().st_mode & 0o777 for path in published} == {0o444}


@pytest.mark.parametrize("project", ["inline"], indirect=True)
def test_damage_is_healed_where_dvc_s_cache_is_linked_too(project: Project) -> None:
    """With `cache.type hardlink` all copies are one file: a run makes it again, and DVC takes it into its cache."""
    project.run("dvc", "config", "cache.type", "hardlink")
    project.repro("-f", "-s", TARGET)
    project.repro(TARGET)
    before, table = project.digests(STAGE), table_of(project)
    assert table.stat().st_nlink == 3
    flip_without_a_trace(table)
    heal(project, refusal(project, "trajectories"))
    assert outcomes(project)[-1] == "success"
    for _ in range(2):
        assert project.digests(STAGE) == before
        assert state(project, "--verify") == "fresh"
        shutil.rmtree(project.data(STAGE, "trajectories"))
        project.run("dvc", "checkout", TARGET)
    project.run("dvc", "config", "--unset", "cache.type")


@pytest.mark.parametrize("project", ["by_hash"], indirect=True)
def test_a_payload_that_is_gone_is_made_again_by_the_command_that_is_named(project: Project) -> None:
    for path in project.data(".store").glob("*/"):
        shutil.rmtree(path)
    heal(project, refusal(project, "trajectories"))
    assert outcomes(project)[-1] == "success"
    assert state(project) == "fresh"


def table_of(project: Project) -> Path:
    return next(path for path in files_below(project.data(STAGE, "trajectories")) if path.name != MANIFEST)


def flip_without_a_trace(path: Path) -> None:
    """Change a byte as a bad disc does: size and time are as they were."""
    path.chmod(0o644)
    times = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def state(project: Project, *options: str) -> str:
    """Return the state that the plan gives the stage."""
    plan = project.run("python", "-m", "pipelines.commands.plan", "--env", PROFILE, *options).stdout
    (line,) = [line for line in plan.splitlines() if f" {STAGE} " in line]
    return line.split("│")[2].strip()


def refusal(project: Project, dataset: str) -> str:
    """Return the error of a stage that loads a dataset."""
    script = (
        "from pipelines import graph; from pipelines.errors import report_errors\n"
        f"with report_errors(): graph.dataset({PROFILE!r}, {dataset!r}).load()"
    )
    process = project.run("python", "-c", script, check=False)
    assert process.returncode == 1, process.stderr
    return process.stderr


def heal(project: Project, error: str) -> None:
    """Run the command that an error names, in the present environment."""
    (command,) = set(re.findall("`(make [^`]+)`", error))
    assert f"PROFILE={PROFILE}" in command
    project.run(*shlex.split(command), "READY=")


def inodes(project: Project) -> dict[str, set[int]]:
    """Return the inodes of each content, of the stage's tables and of what is kept of them, but for manifests."""
    numbers: dict[str, set[int]] = {}
    for folder in (project.data(STAGE), project.data(".store")):
        for path in files_below(folder):
            if path.suffix == ".parquet":
                numbers.setdefault(digest_file(path), set()).add(path.stat().st_ino)
    return numbers


def test_its_curves_come_along(made: Project) -> None:
    """For a recalled training, MLflow and Dagster have the history of the run that made it."""
    target = ("-s", f"{LEDGER}:code", f"{LEDGER}:sft")
    parameters = f"conf/{PROFILE}/parameters/sft.yml"
    made.edit(parameters, "  steps: 8\n", "  steps: 9\n")
    made.repro(*target)
    made.edit(parameters, "  steps: 9\n", "  steps: 8\n")
    made.repro(*target)
    _, other, back = made.records("sft")[-3:]
    assert (other["outcome"], back["outcome"]) == ("success", "recalled")
    (before,) = [run for run in made.records("sft") if run["path"].name == back["origin"]["record"]]
    assert (back["key"], back["training"]) == (before["key"], before["training"])
    assert back["training"]["steps"] == 8
    histories = [run["path"].with_suffix("") / "history.jsonl" for run in (before, back)]
    assert histories[0].read_bytes() == histories[1].read_bytes()
    assert ran(made.repro().stdout) == ["code"]
