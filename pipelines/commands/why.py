"""`make why STAGE=sft`: show what made a stage stale, old → new, through the chain of the stages before it.

    python -m pipelines.commands.why sft --env laptop

It reads what `make plan` reads: run records, today's keys, the digests of published datasets.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.markup import escape
from rich.tree import Tree

from engine.identity.definitions import AT_IMPORT
from engine.identity.difference import ABSENT, Change, differences
from engine.identity.library import Library
from engine.identity.records import GOOD, PULLED, read_records
from pipelines import graph
from pipelines.errors import report_errors
from pipelines.output import duration, screen
from pipelines.stages_file import load_stages_file
from pipelines.status import COLOURS, NO_RUN, StageStatus, stage_status

MOST = 12
"""The most changes shown for one stage, so that the answer fits on one screen."""
_SHORT = 10


def main() -> None:
    """Print the reasons of one stage's state."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.commands.why", description="Why a stage would run.")
    parser.add_argument("stage", help="a stage of kedro.yml")
    parser.add_argument("--env", default=None, help="profile")
    arguments = parser.parse_args()
    with report_errors():
        stages_file = load_stages_file()
        profile, stage = stages_file.profile(arguments.env), stages_file.stage_name(arguments.stage)
        with graph.library() as modules:
            screen().print(Why(profile, stage_status(profile), modules).tree(stage))
        if stages_file.waived:
            print(f"waived in kedro.yml, so never a reason: {', '.join(sorted(stages_file.waived))}")


@dataclass
class Why:
    """The states of a profile's stages, and the modules in which changed definitions are found."""

    profile: str
    statuses: dict[str, StageStatus]
    modules: Library

    def tree(self, stage: str) -> Tree:
        """Return the reasons of one stage's state as a tree."""
        status = self.statuses[stage]
        tree = Tree(self._headline(status))
        self._reasons(tree, status, {stage})
        return tree

    def _headline(self, status: StageStatus) -> str:
        state = f"[bold]{status.stage}[/] is [{COLOURS[status.state]}]{status.state}[/]"
        if status.state != "fresh" or status.record is None:
            return f"{state}: {escape(status.reason)}" if status.state != "stale" else state
        duration_text = f", took {duration(status.seconds)}" if status.seconds else ""
        return f"{state}: key {status.key}, {escape(status.reason)}{duration_text}"

    def _reasons(self, tree: Tree, status: StageStatus, shown: set[str]) -> None:
        """Add the changes of a stage itself, then those of the stages before it."""
        if status.state in NO_RUN:
            return
        changes = self._changes(status)
        direct = [change for change in changes if change.kind != "input"]
        for change in direct[:MOST]:
            tree.add(self._line(change))
        if len(direct) > MOST:
            tree.add(f"… and {len(direct) - MOST} more")
        for change in changes:
            if change.kind == "input":
                self._input(tree.add(self._line(change)), change)
        unready = list(self._waiting(status))
        for producer, names in unready:
            before = self.statuses[producer]
            branch = tree.add(f"{', '.join(names)} may change, because {self._headline(before)}")
            if producer in shown:
                branch.add("as above")
            else:
                shown.add(producer)
                self._reasons(branch, before, shown)
        if not changes and not unready and status.state == "stale":
            tree.add(escape(status.reason))

    def _changes(self, status: StageStatus) -> list[Change]:
        """Return the differences from the last good run; a missing input is shown with the stage that makes it."""
        if status.record is None or status.parts is None:
            return []
        changes = differences(status.record["parts"], status.parts)
        return [change for change in changes if change.kind != "input" or change.new != ABSENT]

    def _waiting(self, status: StageStatus) -> Iterator[tuple[str, list[str]]]:
        """Return the stages before this one that are not fresh, with the datasets that it reads from them."""
        inputs: dict[str, list[str]] = {}
        for name in graph.stage_graph(status.stage).inputs:
            inputs.setdefault(graph.producer(name), []).append(name)
        return ((producer, names) for producer, names in inputs.items() if self.statuses[producer].state not in NO_RUN)

    def _input(self, branch: Tree, change: Change) -> None:
        """Add why an input differs: the differences between its producer's run of then and its latest run."""
        producer = graph.producer(change.name)
        runs = read_records(graph.runs_folder(self.profile, producer))
        good = [run for run in runs if run["outcome"] in GOOD]
        earlier = [run for run in good if run["outputs"].get(change.name) == change.old]
        current = [run for run in good if run["outputs"].get(change.name) == change.new]
        if not current:
            branch.add(f"{producer} has no record of a run that made it as it is now")
            return
        branch.add(
            f"{producer} {'was pulled' if current[-1]['outcome'] == PULLED else 'made it'} {_when(current[-1])}"
            + (f", before that {_when(earlier[-1])}" if earlier else "")
        )
        changes = differences(earlier[-1]["parts"], current[-1]["parts"]) if earlier else []
        for inner in changes[:MOST]:
            branch.add(self._line(inner))
        if len(changes) > MOST:
            branch.add(f"… and {len(changes) - MOST} more")

    def _line(self, change: Change) -> str:
        """Return one change as a line: its name, its place, old → new."""
        text = escape(str(change)).removeprefix("definition ").replace(f".{AT_IMPORT}", ", on import,")
        if change.kind == "definition":
            text += f"  [dim]{self._place(change.name)}[/]"
        elif change.kind == "catalog entry":
            text += "  [dim]conf/base/catalog, or its gate in gates.yml[/]"
        if (
            change.kind in {"definition", "file", "source", "input", "catalog entry"}
            and "→" not in text
            and ABSENT not in (change.old, change.new)
        ):
            text += f"  {change.old[:_SHORT]} → {change.new[:_SHORT]}"
        return text

    def _place(self, name: str) -> str:
        """Return file:line of a definition, or the file that imports it from elsewhere."""
        module = self.modules.module(name.rpartition(".")[0])
        if module is None:
            return ""
        definition = module.definitions.get(name.rpartition(".")[2])
        return f"{module.path}:{definition.line}" if definition else module.path


def _when(run: dict[str, Any]) -> str:
    return str(run["finished"])[:16].replace("T", " ")


if __name__ == "__main__":
    main()
