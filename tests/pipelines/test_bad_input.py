"""Bad input at the command line: one sentence naming file, field and remedy; exit 1; earlier artifacts intact."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch
import yaml

from tests.project import PROFILE, Project

LOCAL = {"domain": "web", "license": "CC0", "max_bytes": 100000, "text_column": "text"}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("project"))


@pytest.fixture
def project(copy: Project) -> Project:
    copy.run("git", "checkout", "-q", "--", ".")
    shutil.rmtree(copy.path / "data", ignore_errors=True)
    return copy


def refused(project: Project, *command: str) -> str:
    process = project.run(*command, check=False)
    assert process.returncode == 1, process.stdout + process.stderr
    errors = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, process.stderr
    assert "Traceback" not in process.stderr
    return errors[0]


def run_stage(project: Project, stage: str) -> str:
    project.run("python", "-m", "pipelines.commands.code", "--env", PROFILE)
    return refused(project, "kedro", "run", "--env", PROFILE, "--pipelines", stage)


def with_source(project: Project, **source: object) -> None:
    """Replace the corpus stage's sources by one of our own."""
    path = project.path / "conf/base/parameters/corpus.yml"
    content = yaml.safe_load(path.read_text())
    content["corpus"]["sources"] = {"mine": {**LOCAL, **source}}
    path.write_text(yaml.safe_dump(content))
    (project.path / f"conf/{PROFILE}/parameters/corpus.yml").unlink()


def test_unknown_profile(project: Project) -> None:
    assert "no profile 'desktop'" in refused(project, "kedro", "run", "--env", "desktop")
    assert "smoke, laptop" in refused(project, "python", "-m", "pipelines.commands.plan", "--env", "desktop")


def test_unknown_stage(project: Project) -> None:
    assert "no stage 'pretrian'" in refused(project, "kedro", "run", "--env", PROFILE, "--pipelines", "pretrian")


def test_a_wrong_compute_class_is_refused_before_any_stage_starts(project: Project) -> None:
    project.append(f"conf/{PROFILE}/compute.yml", "llm: { launcher: ssh }\n")
    error = refused(project, "kedro", "run", "--env", PROFILE, "--pipelines", "corpus")
    assert "class llm: the field launcher is 'ssh'" in error


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("launcher", ["inplace", "local"])
def test_a_gpu_that_is_not_there_is_refused_before_the_stages_workspace_is_made(
    project: Project, launcher: str
) -> None:
    project.append(f"conf/{PROFILE}/compute.yml", f"cpu: {{ launcher: {launcher}, device: cuda }}\n")
    error = run_stage(project, "corpus")
    assert f"conf/{PROFILE}/compute.yml: class cpu, field device" in error
    assert "device: cuda needs 1 GPU on " in error
    assert "set device: cpu, or run where there are enough" in error
    assert not project.data("corpus").exists()
    assert [path.name for path in project.data(".work/corpus").iterdir()] == ["lock"]


def test_unknown_parameter(project: Project) -> None:
    project.append(f"conf/{PROFILE}/parameters/sft.yml", "  stepps: 3\n")
    error = refused(project, "kedro", "run", "--env", PROFILE, "--pipelines", "corpus")
    assert "sft.stepps" in error
    assert "did you mean steps" in error
    assert "sft.stepps" in refused(project, "python", "-m", "pipelines.commands.code", "--env", PROFILE)


def test_malformed_yaml(project: Project) -> None:
    project.append(f"conf/{PROFILE}/parameters/rl.yml", "  steps: [1\n")
    error = refused(project, "kedro", "run", "--env", PROFILE, "--pipelines", "corpus")
    assert f"conf/{PROFILE}/parameters/rl.yml, line 1" in error


def parquet(path: Path) -> None:
    pl.DataFrame({"body": ["x"]}).write_parquet(path)


@pytest.mark.parametrize(
    ("kind", "name", "make", "words"),
    [
        ("jsonl", "empty.jsonl", lambda path: path.write_text(""), ["empty.jsonl"]),
        ("parquet", "other.parquet", parquet, ["other.parquet", "text", "body"]),
        ("text", "latin.txt", lambda path: path.write_bytes(b"caf\xe9 au lait"), ["latin.txt", "UTF-8"]),
    ],
)
def test_bad_source(
    project: Project, tmp_path: Path, kind: str, name: str, make: Callable[[Path], object], words: list[str]
) -> None:
    make(tmp_path / name)
    source = {"kind": kind, "path": str(tmp_path / name)}
    with_source(project, **source)
    if kind == "text":
        path = project.path / "conf/base/parameters/corpus.yml"
        path.write_text(path.read_text().replace("      text_column: text\n", ""))
    error = run_stage(project, "corpus")
    for word in words:
        assert word in error
    assert not project.data("corpus").exists()


def test_a_missing_source_is_refused_before_any_stage_starts(project: Project, tmp_path: Path) -> None:
    with_source(project, kind="parquet", path=str(tmp_path / "gone.parquet"))
    error = refused(project, "python", "-m", "pipelines.commands.code", "--env", PROFILE)
    assert f"corpus.sources.mine.path: there is no file at {tmp_path}/gone.parquet" in error
    assert not project.data("corpus").exists()


def test_missing_input_names_the_stage_that_makes_it(project: Project) -> None:
    assert f"`make repro STAGE=tokenization PROFILE={PROFILE}`" in run_stage(project, "pretrain")


@pytest.mark.parametrize(
    ("field", "value", "words"), [("schema", 0, "schema is 0"), ("stage", "elsewhere", "elsewhere/documents")]
)
def test_foreign_or_older_manifest(project: Project, field: str, value: object, words: str) -> None:
    folder = project.data("corpus", "documents")
    folder.mkdir(parents=True)
    manifest = {"schema": 1, "stage": "corpus", "dataset": "documents", "counts": {}, "files": {}}
    (folder / "manifest.json").write_text(json.dumps({**manifest, field: value}))
    error = run_stage(project, "rephrase")
    assert words in error
    assert f"`make repro STAGE=corpus PROFILE={PROFILE}`" in error


def test_full_disc_keeps_what_was_there(project: Project, tmp_path: Path) -> None:
    """The file system has 2 MB, in a user and mount namespace of its own (which needs no root)."""
    script = f"""
import sys
from pathlib import Path
import polars as pl
from pipelines.datasets import TableDataset
from pipelines.errors import report_errors
dataset = TableDataset(filepath="{tmp_path}/disc/corpus/rejected_documents", stage="corpus",
                       table="nodes.corpus.schema.REJECTED_DOCUMENTS", may_be_empty=True)
columns = ("id", "domain", "source", "title", "reason")
import random
random.seed(0)
def rows(n): return pl.DataFrame({{c: [random.randbytes(40).hex() for _ in range(n)] for c in columns}})
dataset.save(rows(10))
try:
    with report_errors():
        dataset.save(rows(20000))
except SystemExit as error:
    assert error.code == 1
    assert dataset.load().collect().height == 10, "the earlier table is intact"
    assert [p.name for p in Path("{tmp_path}/disc/corpus").iterdir()] == ["rejected_documents"]
    print("intact")
"""
    (tmp_path / "disc").mkdir()
    mount = f'mount -t tmpfs -o size=2m tmpfs {tmp_path}/disc && exec {sys.executable} -c "$SCRIPT"'
    environment = {"SCRIPT": script, "PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "PYTHONPATH": "."}
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount]
    process = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert "intact" in process.stdout, process.stdout + process.stderr
    assert "error: the disc is full" in process.stderr
    assert "Traceback" not in process.stderr
