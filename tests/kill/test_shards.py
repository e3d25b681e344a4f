"""A data stage killed in the middle, gone on with by shards as a job array starts them, and published by the driver."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from engine.errors import UserError
from engine.launch import exchange
from tests.processes import await_state
from tests.project import PROFILE, Project

pytestmark = pytest.mark.slow

STAGE, NODE, BLOCKS = "tooluse", "build_trajectories", 8
KEDRO = ("kedro", "run", "--env", PROFILE, "--pipelines", STAGE)
SECONDS = 240


def test_shards_go_on_where_the_driver_was_killed_and_the_driver_publishes_the_same(tmp_path: Path) -> None:
    project = Project(tmp_path)
    parameters = configured(project)
    project.run(*KEDRO)
    expected, key = project.digests(STAGE), project.records(STAGE)[-1]["key"]
    workspace = project.data(".work", STAGE, key)

    driver = project.start(*KEDRO)
    await_state(lambda: made(workspace), driver.poll)
    driver.kill()
    driver.wait()
    blocks = made(workspace)
    assert 0 < len(blocks) < BLOCKS

    exchange.write_parameters(workspace, NODE, {f"params:{STAGE}": parameters})
    ranks = [start(project, key, number, 3) for number in range(3)]
    assert [rank.wait(SECONDS) for rank in ranks] == [0, 0, 0]
    assert len(made(workspace)) == BLOCKS
    assert blocks.items() <= made(workspace).items()
    assert not list((workspace / ".exchange").glob("*.outputs.json")), "handing over is the driver's"

    inodes = made(workspace)
    assert start(project, key, 3, 3).wait(SECONDS) == 1
    with pytest.raises(UserError, match="--shard 3 --shards 3: "):
        exchange.raise_error(workspace, NODE, 1)
    assert start(project, key, 1, 2).wait(SECONDS) == 0, "another number of shards finds everything made"
    assert made(workspace) == inodes

    project.run(*KEDRO)
    assert project.digests(STAGE) == expected
    assert project.records(STAGE)[-1]["attempt"] == 2


def configured(project: Project) -> dict[str, object]:
    """Have the stage make `BLOCKS` blocks; its parameters as they are then resolved."""
    own = project.path / f"conf/{PROFILE}/parameters/{STAGE}.yml"
    own.write_text(yaml.safe_dump({STAGE: {"tasks": BLOCKS * 128 - 50}}))
    project.run("python", "-m", "pipelines.commands.code", "--env", PROFILE)
    base = yaml.safe_load((project.path / f"conf/base/parameters/{STAGE}.yml").read_text())[STAGE]
    return {**base, **yaml.safe_load(own.read_text())[STAGE]}


def start(project: Project, key: str, number: int, of: int) -> "subprocess.Popen[bytes]":
    """One element of an array of `of`."""
    rank, environment = project.rank(STAGE, NODE, key, shard=number, shards=of)
    return subprocess.Popen([sys.executable, *rank], cwd=project.path, env=environment)


def made(workspace: Path) -> dict[str, int]:
    """The blocks' files and what tells whether one was made again."""
    return {path.name: path.stat().st_ino for path in workspace.glob("played/*.parquet")}
