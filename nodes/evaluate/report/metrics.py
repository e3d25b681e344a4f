"""The stage's metrics: the table and the changes as one flat mapping, for DVC, MLflow and the run's summary."""

from nodes.evaluate.report.changes import changes
from nodes.evaluate.report.content import Facts


def flat_metrics(facts: Facts) -> dict[str, float | int | str]:
    """Return figures as metric_checkpoint, and headline changes with intervals as metric_change_checkpoint."""
    metrics: dict[str, float | int | str] = {
        f"{_flat(row.metric)}_{checkpoint}": row.value
        for checkpoint, by_suite in facts.results.items()
        for result in by_suite.values()
        for row in result.rows
    }
    for change in changes(facts.results, facts.suites, facts.seed):
        name = f"{_flat(change.metric)}_change_{change.after}"
        metrics[name] = change.difference.value
        ends = {"low": change.difference.low, "high": change.difference.high}
        metrics |= {f"{name}_{end}": value for end, value in ends.items() if value is not None}
    return metrics


def _flat(metric: str) -> str:
    return metric.replace("/", "_")
