"""The uses of Kedro and MLflow beyond their public interfaces, in one function each, which names the version.

tests/pipelines/test_internals.py says in one sentence which of them an installed version has moved away from. Dagster's
are in dags/internals.py, Great Expectations' in pipelines/gates/internals.py, torch's in engine/optim/foreach.py and
where tests/engine/test_torch_internals.py says; what is read of DVC's is in pipelines/dvc_cache.py (where its cache has
a file) and pipelines/cli.py (its command line).
"""

from typing import TYPE_CHECKING, Any

from kedro.pipeline import Pipeline

if TYPE_CHECKING:
    from kedro.runner import AbstractRunner


def requested_pipelines() -> list[str]:
    """Return the pipelines that Kedro's registry is asked for; none where it is asked for all.

    Of `kedro run --pipelines` Kedro 1.7.0 tells the registry by kedro.framework.project.pipelines._requested_pipelines,
    and by nothing else.
    """
    import kedro.framework.project  # Kedro, which calls this, has it; the views do without a quarter of a second of it

    return list(getattr(kedro.framework.project.pipelines, "_requested_pipelines", None) or ())


def without_made(runner: "AbstractRunner", pipeline: Pipeline, catalog: Any) -> Pipeline:
    """Return the nodes that `kedro run --only-missing-outputs` runs.

    Kedro 1.7.0's runners do it in `_filter_pipeline_for_missing_outputs`, which is called by the very `run` that ours
    overrides.
    """
    return runner._filter_pipeline_for_missing_outputs(pipeline, catalog)


def try_database(times: int) -> None:
    """Have MLflow try a database that it cannot open `times` times and not ten, which take 100 seconds.

    MLflow 3.17.2 reads `MAX_RETRY_COUNT` of mlflow.store.db.utils at each try, and has no setting for it.
    """
    from mlflow.store.db import utils

    utils.MAX_RETRY_COUNT = times
