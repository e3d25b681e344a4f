"""A module of pipelines/stages is one literal list of nodes, so that it shows all of the stage's wiring."""

import ast

import pytest

from pipelines.stages_file import ROOT, load_stages_file

FOLDER = ROOT / "pipelines" / "stages"


def test_there_is_one_module_a_stage() -> None:
    modules = {path.stem for path in FOLDER.glob("*.py")} - {"__init__"}
    assert modules == set(load_stages_file().stages)


@pytest.mark.parametrize("stage", load_stages_file().stages)
def test_a_stage_is_a_literal_list(stage: str) -> None:
    docstring, *rest = ast.parse((FOLDER / f"{stage}.py").read_text()).body
    assert isinstance(docstring, ast.Expr)
    *imports, function = rest
    assert all(isinstance(statement, ast.ImportFrom) for statement in imports)
    assert isinstance(function, ast.FunctionDef)
    assert function.name == "create_pipeline"
    decides = (ast.If, ast.IfExp, ast.For, ast.While, ast.comprehension, ast.Assign, ast.JoinedStr)
    assert not [node for node in ast.walk(function) if isinstance(node, decides)]
