"""`make plan`: show every stage's state (pipelines/status.py), its first reason and how long it will take.

VERIFY=1 reads every byte of the outputs.

    python -m pipelines.commands.plan --env laptop [--verify]
"""

import argparse

from rich.markup import escape

from pipelines.errors import report_errors
from pipelines.output import duration, screen
from pipelines.stages_file import load_stages_file
from pipelines.status import COLOURS, NO_RUN, StageStatus, stage_status


def main() -> None:
    """Print the plan."""
    parser = argparse.ArgumentParser(description="What would run, and why.")
    parser.add_argument("--env", default=None, help="profile")
    parser.add_argument("--verify", action="store_true", help="read every byte of the outputs")
    arguments = parser.parse_args()
    with report_errors():
        print_plan(load_stages_file().profile(arguments.env), read=arguments.verify)


def print_plan(profile: str, *, read: bool = False) -> None:
    """Print one line for each stage, and how long those that would run will take."""
    from rich.table import Table

    table = Table(title=f"plan of profile {profile}", title_justify="left")
    for column in ("stage", "state", "why"):
        table.add_column(column, overflow="fold")
    table.add_column("takes", justify="right", no_wrap=True)
    statuses = list(stage_status(profile, read=read).values())
    for status in statuses:
        colour = COLOURS[status.state]
        takes = "no run" if status.state == "recalled" else duration(status.estimate)
        table.add_row(status.stage, f"[{colour}]{status.state}[/]", escape(status.reason), takes)
    console = screen()
    console.print(table)
    console.print(total(statuses), soft_wrap=True)


def total(statuses: list[StageStatus]) -> str:
    """Return a sentence: how many stages would run, for how long by past runs, and how many come back without a run."""
    to_run = [status for status in statuses if status.state not in NO_RUN]
    back = sum(status.state == "recalled" for status in statuses)
    returning = f"{back} {'stage comes' if back == 1 else 'stages come'} back without a run" if back else ""
    if not to_run:
        return f"Nothing would run: {returning}." if returning else "All is fresh."
    known = [status.estimate for status in to_run if status.estimate is not None]
    unknown = [status.stage for status in to_run if status.estimate is None]
    parts = [f"about {duration(sum(known))}"] if known else []
    never = f"{len(unknown)} stages" if len(unknown) > 3 else ", ".join(unknown)
    parts += [f"unknown for {never}, never timed"] if unknown else []
    also = f" {returning}." if returning else ""
    return f"{len(to_run)} of {len(statuses)} stages would run: {'; '.join(parts)}.{also}"


if __name__ == "__main__":
    main()
