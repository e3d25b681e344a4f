"""Nothing heavy at import, and the names of our floors are ours."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "mlflow", "great_expectations", "transformers", "polars")


@pytest.mark.parametrize(
    "statement",
    [
        "from kedro.framework.startup import bootstrap_project; bootstrap_project('.');"
        "from kedro.framework.project import pipelines; list(pipelines.values())",
        "from pipelines.status import stage_status; stage_status('smoke')",
        "from dags.dvc_yaml import render; render('k2')",
    ],
)
def test_listing_the_graph_loads_nothing_heavy(statement: str) -> None:
    code = f"{statement}; import sys; print([name for name in {HEAVY} if name in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=".")
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip().splitlines()[-1] == "[]"


def test_floors_are_ours() -> None:
    """`kernels` is also a package on PyPI; it must never be what we import."""
    from pathlib import Path

    import dags
    import engine
    import kernels
    import nodes
    import pipelines
    import studies

    root = Path(pipelines.__file__).parent.parent
    for floor in (dags, pipelines, nodes, studies, engine, kernels):
        assert floor.__file__ is not None
        assert Path(floor.__file__).parent.parent == root
