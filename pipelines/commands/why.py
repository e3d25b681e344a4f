"""`make why STAGE=sft`: what made a stage stale, old → new, through the chain of the stages before it.

    python -m pipelines.commands.why sft --env laptop

It reads what `make plan` reads: run records, today's keys, the digests of what is published.
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
from engine.identity.records import GOOD, read_records
from pipelines import graph
from pipelines.errors import report_errors
from pipelines.output import duration, screen
from pipelines.stages_file import load_stages_file
from pipelines.status import COLOURS, NO_RUN, StageStatus, stage_status

MOST = 12
"""Changes shown of one stage: all of it is to fit on one screen."""
_SHORT = 10


def main() -> None:
    """Print why one stage is what it is."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.commands.why", description="Why a stage would run.")
    parser.add_argument("stage", help="a stage of kedro.yml")
    parser.add_argument("--env", default=None, help="profile")
    asked = parser.parse_args()
    with report_errors():
        stages_file = load_stages_file()
        profile, stage = stages_file.profile(asked.env), stages_file.stage(asked.stage).name
        with graph.library() as modules:
            screen().print(Why(profile, stage_status(profile), modules).tree(stage))
        if stages_file.waived:
            print(f"waived in kedro.yml, so never a reason: {', '.join(sorted(stages_file.waived))}")


@dataclass
class Why:
    """The stages of a profile as they stand, and the modules to find definitions in."""

    profile: str
    statuses: dict[str, StageStatus]
    modules: Library

    def tree(self, stage: str) -> Tree:
        """All reasons of one stage."""
        status = self.statuses[stage]
        tree = Tree(self._headline(status))
        self._reasons(tree, status, {stage})
        return tree

    def _headline(self, status: StageStatus) -> str:
        state = f"[bold]{status.stage}[/] is [{COLOURS[status.state]}]{status.state}[/]"
        if status.state != "fresh" or status.record is None:
            return f"{state}: {escape(status.reason)}" if status.state != "stale" else state
        took = f", took {duration(status.seconds)}" if status.seconds else ""
        return f"{state}: key {status.key}, {escape(status.reason)}{took}"

    def _reasons(self, tree: Tree, status: StageStatus, told: set[str]) -> None:
        """Add what changed in a stage itself, then what comes of the stages before it."""
        if status.state in NO_RUN:
            return
        changes = self._changes(status)
        own = [change for change in changes if change.kind != "input"]
        for change in own[:MOST]:
            tree.add(self._line(change))
        if len(own) > MOST:
            tree.add(f"… and {len(own) - MOST} more")
        for change in changes:
            if change.kind == "input":
                self._input(tree.add(self._line(change)), change)
        waits = list(self._waiting(status))
        for producer, names in waits:
            before = self.statuses[producer]
            branch = tree.add(f"{', '.join(names)} may change, because {self._headline(before)}")
            if producer in told:
                branch.add("as above")
            else:
                told.add(producer)
                self._reasons(branch, before, told)
        if not changes and not waits and status.state == "stale":
            tree.add(escape(status.reason))

    def _changes(self, status: StageStatus) -> list[Change]:
        """What differs from the last good run; an input that is not there now is told with the stage that makes it."""
        if status.record is None or status.parts is None:
            return []
        found = differences(status.record["parts"], status.parts)
        return [change for change in found if change.kind != "input" or change.new != ABSENT]

    def _waiting(self, status: StageStatus) -> Iterator[tuple[str, list[str]]]:
        """Stages before this one that are not fresh, with what it reads of them."""
        inputs: dict[str, list[str]] = {}
        for name in graph.stage_graph(status.stage).inputs:
            inputs.setdefault(graph.producer(name), []).append(name)
        return ((producer, names) for producer, names in inputs.items() if self.statuses[producer].state not in NO_RUN)

    def _input(self, branch: Tree, change: Change) -> None:
        """Why an input differs: what its stage was made of then and in its latest run."""
        producer = graph.producer(change.name)
        runs = read_records(graph.runs_folder(self.profile, producer))
        good = [run for run in runs if run["outcome"] in GOOD]
        then = [run for run in good if run["outputs"].get(change.name) == change.old]
        now = [run for run in good if run["outputs"].get(change.name) == change.new]
        if not now:
            branch.add(f"{producer} did not make it as it is: no record of a run")
            return
        branch.add(f"{producer} made it {_when(now[-1])}" + (f", before that {_when(then[-1])}" if then else ""))
        changes = differences(then[-1]["parts"], now[-1]["parts"]) if then else []
        for one in changes[:MOST]:
            branch.add(self._line(one))
        if len(changes) > MOST:
            branch.add(f"… and {len(changes) - MOST} more")

    def _line(self, change: Change) -> str:
        """One change: what, where it stands, old → new."""
        text = escape(str(change)).removeprefix("definition ").replace(f".{AT_IMPORT}", ", on import,")
        if change.kind == "definition":
            text += f"  [dim]{self._place(change.name)}[/]"
        elif change.kind == "catalog entry":
            text += "  [dim]conf/base/catalog.yml, or its gate in gates.yml[/]"
        if (
            change.kind in {"definition", "file", "source", "input", "catalog entry"}
            and "→" not in text
            and ABSENT not in (change.old, change.new)
        ):
            text += f"  {change.old[:_SHORT]} → {change.new[:_SHORT]}"
        return text

    def _place(self, name: str) -> str:
        """file:line of a definition, or of the import that hands it on."""
        module = self.modules.module(name.rpartition(".")[0])
        if module is None:
            return ""
        made = module.definitions.get(name.rpartition(".")[2])
        return f"{module.path}:{made.line}" if made else module.path


def _when(run: dict[str, Any]) -> str:
    return str(run["finished"])[:16].replace("T", " ")


if __name__ == "__main__":
    main()
