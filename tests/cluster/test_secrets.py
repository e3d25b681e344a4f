"""A job reads its API key from a file on its node, and the key is nowhere else: not with Slurm, not with us."""

import secrets
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.cluster.harness import Cluster
from tests.cluster.training import ARRAY, Training, command
from tests.engine.llm.fake_server import FakeOpenAI, fake_openai
from tests.project import PROFILE

pytestmark = pytest.mark.slow
STAGE, NODE = "rephrase", "rephrase_documents"
PATH_VARIABLE = "OPENAI_API_KEY_FILE"


@pytest.fixture
def own(cluster: Cluster, prepared: Path, tmp_path: Path) -> Training:
    """A scratch repository whose parameters this test may change."""
    return Training(tmp_path / "a project", prepared, cluster)


def test_a_key_in_a_file_reaches_the_server_and_no_file_process_or_record(
    own: Training, cluster: Cluster, tmp_path: Path
) -> None:
    key, submitters = f"sk-{secrets.token_hex(16)}", f"sk-{secrets.token_hex(16)}"
    file = tmp_path / "keys" / "llm"
    file.parent.mkdir()
    file.write_text(f"{key}\n")
    file.chmod(0o600)
    requests: list[dict[str, str]] = []
    shown: list[str] = []

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        """Look at the job while it waits for the reply, then say the passage again."""
        if not requests:
            requests.extend(environments(cluster))
            shown.extend(everything_slurm_says(cluster))
        return 200, body["messages"][-1]["content"].rpartition("Passage: ")[2]

    with fake_openai(answer) as server:
        configure(own, server, file)
        driver = own.start_command(command(STAGE), {"OPENAI_API_KEY": submitters})
        assert driver.wait() == 0, driver.output()[-6000:]
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {key}"}
    record = own.project.records(STAGE)[-1]
    assert record["metrics"]["rewrites_openai"] > 0
    assert record["jobs"][NODE]["attempts"] == 1

    script = next(own.project.data(".runs", STAGE).glob(f"*/jobs/{NODE}/job.sbatch")).read_text()
    assert f"export {PATH_VARIABLE}={file}\n" in script
    assert str(file) in {environment.get(PATH_VARIABLE) for environment in requests}, "the ranks were looked at"
    assert any(PATH_VARIABLE in text for text in shown), "the script was, too"
    for secret in (key, submitters):
        assert secret not in driver.output()
        assert not [text for text in shown if secret in text]
        assert not [environment for environment in requests if secret in environment.values()]
        assert traces(secret, own.project.path, cluster.root, keep=file) == []


def configure(own: Training, server: FakeOpenAI, file: Path) -> None:
    """Have a model behind a server rewrite two documents, and its key in a file."""
    parameters = own.project.path / f"conf/{PROFILE}/parameters/{STAGE}.yml"
    llm = {"provider": "openai", "base_url": server.url, "model": "parrot"}
    parameters.write_text(yaml.safe_dump({STAGE: {"model": {"documents": 2, "llm": llm}}}))
    where = {name: value for name, value in ARRAY.items() if name != "array"}
    compute = {"llm": {**where, "fabric": {PATH_VARIABLE: str(file)}}}
    (own.project.path / f"conf/{PROFILE}/compute.yml").write_text(yaml.safe_dump(compute))
    own.project.run("python", "-m", "pipelines.commands.code", "--env", PROFILE)


def environments(cluster: Cluster) -> list[dict[str, str]]:
    """Return the environment of every process of the cluster's jobs that has one of its own."""
    by_process = []
    for process in cluster.job_processes():
        try:
            by_process.append(process.environ())
        except psutil.Error:
            continue
    return by_process


def everything_slurm_says(cluster: Cluster) -> list[str]:
    """Return all that any user may ask Slurm about running jobs: their description, script and environment."""
    (job,) = cluster.jobs()
    return [cluster.scontrol("show", "job", "-dd", job), cluster.scontrol("write", "batch_script", job, "-")]


def traces(secret: str, *roots: Path, keep: Path) -> list[Path]:
    """Return the files below these folders that hold a secret, except the key file itself."""
    files = []
    for path in (path for root in roots for path in root.rglob("*") if path.is_file() and path != keep):
        try:
            files += [path] * (secret.encode() in path.read_bytes())
        except FileNotFoundError:  # a daemon has just replaced it
            continue
    return files
