"""docs/how-to.md: its examples, put into a scratch copy, are known to everything that lists such things."""

import json
from pathlib import Path

import pytest

from tests.additions import add_all, shown
from tests.project import Project

ASK = """
import json
from dags import dvc_yaml, picture
from engine.toolworld.specs import load_tools
from engine.toolworld.world import World
from nodes.corpus.schema import Parameters
from nodes.corpus.sources import KINDS
from nodes.evaluate.report import figures
from pipelines import checkpoints, graph
from pipelines.parameters import check_parameters
from pipelines.stages_file import load_stages_file

check_parameters(graph.parameters("smoke"), "smoke")
world = World("bank", 1)
owner = next(iter(world.state["accounts"]))
before = world.state["accounts"][owner]["balance"]
print(json.dumps({
    "stages": list(load_stages_file().stages),
    "groups": picture.groups(),
    "drawn": picture.draw(),
    "dvc": dvc_yaml.dvc_view("smoke")["stages"]["evaluate"]["deps"],
    "checkpoints": checkpoints.checkpoints(),
    "chats": checkpoints.can_chat("merged"),
    "adoptable": checkpoints.adoptable(),
    "kinds": KINDS,
    "notes": type(Parameters.model_validate(graph.parameters("smoke")["corpus"]).sources["notes"]).__name__,
    "tool": load_tools()["double_balance"].openai()["function"],
    "doubled": [before, world.call("double_balance", {"owner": owner}).value],
    "plots": [draw.__name__ for draw, _ in figures._PLOTS],
}))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = Project(tmp_path_factory.mktemp("how-to"))
    add_all(made)
    return made


def test_the_page_shows_an_example_of_each() -> None:
    files = {name for name, _ in shown()}
    assert {"kedro.yml", "pipelines/stages/evaluate.py", "nodes/corpus/sources.py", "engine/toolworld/apply.py"} < files
    assert "nodes/evaluate/report/figures.py" in files
    assert {Path(name).parts[0] for name in files} == {"nodes", "pipelines", "kedro.yml", "conf", "engine"}


def test_whatever_lists_stages_checkpoints_kinds_tools_and_plots_knows_the_examples(project: Project) -> None:
    known = json.loads(project.run("python", "-c", ASK).stdout)
    assert known["stages"][-2:] == ["merge", "evaluate"]
    assert list(known["groups"].items())[-2:] == [("merging", ["merge"]), ("evaluation", ["evaluate"])]
    assert 'group_merging -- "merged_checkpoint" --> group_evaluation' in known["drawn"]
    assert "data/smoke/merge/merged_checkpoint" in known["dvc"]
    assert list(known["checkpoints"].items())[-1] == ("merged", "merged_checkpoint")
    assert known["chats"]
    assert "merged_checkpoint" in known["adoptable"]
    assert known["kinds"][-1] == "written"
    assert known["notes"] == "WrittenSource"
    assert known["tool"]["description"] == "Double the balance of one account."
    assert known["tool"]["parameters"]["required"] == ["owner"]
    before, after = known["doubled"]
    assert after == {"ok": True, "balance": 2 * before}
    assert known["plots"][-1] == "answer_lengths"


def test_ruff_and_import_linter_accept_the_examples(project: Project) -> None:
    project.run("ruff", "check", "nodes", "pipelines", "engine")
    project.run("ruff", "format", "--check", "nodes", "pipelines", "engine")
    project.run("lint-imports", "--no-cache")
