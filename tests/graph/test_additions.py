"""docs/how-to.md, followed word for word in a scratch copy: each thing that it adds comes out of the graph."""

import json
from pathlib import Path

import polars as pl
import pytest

from tests.additions import DOUBLED, NOTE, add_all
from tests.project import PROFILE, Project

pytestmark = pytest.mark.slow
STAGES = ("corpus", "tooluse", "merge", "evaluate")


@pytest.fixture(scope="module")
def project(whole: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the graph that has run, with all additions, in which the stages that they concern have run again."""
    made = whole.copied(tmp_path_factory.mktemp("additions") / "project")
    add_all(made)
    made.run("python", "-m", "dags.dvc_yaml")
    made.run("python", "-m", "dags.picture")
    made.run("python", "-m", "pipelines.commands.code", "--env", PROFILE)
    made.run("kedro", "run", "--env", PROFILE, "--pipelines", ",".join(STAGES))
    return made


def table(project: Project, stage: str, name: str) -> pl.DataFrame:
    return pl.read_parquet(project.data(stage, name) / "*.parquet")


def test_the_stage_and_its_group_are_in_every_view(project: Project) -> None:
    assert (project.data("merge", "merged_checkpoint") / "manifest.json").is_file()
    assert json.loads(project.data("merge", "metrics.json").read_text()) == {"share": 0.5}
    assert [record["outcome"] for record in project.records("merge")] == ["success"]
    assert "data/smoke/merge/merged_checkpoint" in (project.path / "conf/smoke/dvc.yaml").read_text()
    page = (project.path / "README.md").read_text()
    assert 'subgraph group_merging["merging"]' in page
    assert 'merge["<b>merge</b> (cpu)<br/>merged_checkpoint"]' in page
    for view in ("dags.dvc_yaml", "dags.picture"):
        project.run("python", "-m", view, "--check")
    assert "share 0.5" in project.run("python", "-m", "pipelines.commands.summary", "--env", PROFILE).stdout


def test_the_checkpoint_is_measured_reported_and_exported(project: Project) -> None:
    report = project.data("evaluate", "report")
    metrics = json.loads(project.data("evaluate", "metrics.json").read_text())
    assert {f"arithmetic_sampled_{name}" for name in ("base", "extended", "sft", "rl", "merged")} <= set(metrics)
    assert "### Merge" in (report / "model_card.md").read_text()
    project.run("python", "-m", "pipelines.commands.export", "--env", PROFILE, "--checkpoint", "merged", "--out", "hf")
    assert (project.path / "hf" / "config.json").is_file()


def test_the_source_kind_is_read(project: Project) -> None:
    documents = table(project, "corpus", "documents").filter(pl.col("source") == "notes")
    assert documents["text"].to_list() == [NOTE]


def test_the_operation_is_a_tool_that_tasks_request_and_worlds_carry_out(project: Project) -> None:
    assert set(table(project, "tooluse", "tools")["name"]) >= {f"double_{field}" for field in DOUBLED.values()}
    goals = [goal for rubric in table(project, "tooluse", "tasks")["rubric"] for goal in json.loads(rubric)["goals"]]
    doubled = [goal for goal in goals if goal["kind"] == "double" and goal["steps"][-1]["expects"] == "ok"]
    assert doubled
    assert all(goal["checkpoints"] and goal["asks"][0].startswith("Double the ") for goal in doubled)


def test_the_plot_is_in_the_report(project: Project) -> None:
    report = project.data("evaluate", "report")
    assert Path(report / "plots" / "answer_lengths.png").read_bytes().startswith(b"\x89PNG")
    assert "answer_lengths.png" in (report / "report.md").read_text()
