"""Print the table at the end of `make run`: stage, time, artifact, size, headline metric; then what to try next.

python -m pipelines.commands.summary --env laptop [--begin]
"""

import argparse
import time
from pathlib import Path
from typing import Any

from engine.artifacts.files import files_below
from pipelines import graph
from pipelines.errors import report_errors
from pipelines.stages_file import ROOT, load_stages_file
from pipelines.status import StageStatus, stage_status


def main() -> None:
    """Print the table, or note when the run began."""
    parser = argparse.ArgumentParser(description="Sum up a profile's last runs.")
    parser.add_argument("--env", default=None, help="profile")
    parser.add_argument("--begin", action="store_true", help="note the time, to tell the whole run's length later")
    arguments = parser.parse_args()
    with report_errors():
        profile = load_stages_file().profile(arguments.env)
        begin_file = graph.data_folder(profile) / ".runs" / "begun"
        if arguments.begin:
            begin_file.parent.mkdir(parents=True, exist_ok=True)
            begin_file.touch()  # the file's time is the note: it has no content that could be damaged
        else:
            print_summary(profile, time.time() - begin_file.stat().st_mtime if begin_file.is_file() else None)


def print_summary(profile: str, wall_seconds: float | None) -> None:
    """Print all stages of a profile, the report's path and what to try next."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"profile {profile}", title_justify="left")
    for column, justify in (
        ("stage", "left"),
        ("seconds", "right"),
        ("artifacts", "left"),
        ("size", "right"),
        ("headline", "left"),
    ):
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    statuses = stage_status(profile)
    for status in statuses.values():
        table.add_row(*_row(status, profile))
    console = Console()
    console.print(table)
    inside = sum(sum(status.record["node_seconds"].values()) for status in statuses.values() if status.record)
    if wall_seconds is not None:
        console.print(f"this run: {wall_seconds:.0f} s; the stages' last runs spent {inside:.0f} s inside nodes")
    report = graph.dataset_path(profile, "report")
    if report.is_dir():
        console.print(f"report:   {(report / 'report.html').relative_to(ROOT)}")
    console.print(
        "next:     make plan · make chat · make ui · make compare · edit conf/base/parameters/sft.yml, then make repro"
    )


def _row(status: StageStatus, profile: str) -> tuple[str, str, str, str, str]:
    datasets = [name for name in graph.stage_graph(status.stage).outputs if not name.endswith("_metrics")]
    outputs = [name for name in datasets if not name.startswith("rejected_")]
    size = sum(_size(graph.dataset_path(profile, name)) for name in datasets)
    seconds = f"{status.seconds:.1f}" if status.seconds is not None else "-"
    return status.stage, seconds, ", ".join(outputs), f"{size / 1e6:.1f} MB", headline(status.stage, status.record)


def headline(stage: str, record: dict[str, Any] | None) -> str:
    """Return the one or two most important figures of a stage as text."""
    metrics = record["metrics"] if record else {}
    shown = [name for name in load_stages_file().stage(stage).headline if name in metrics]
    return ", ".join(f"{name.replace('_', ' ')} {_figure(metrics[name])}" for name in shown)


def _figure(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in files_below(path)) if path.is_dir() else 0


if __name__ == "__main__":
    main()
