"""Fingerprints under mutation: what each edit makes stale, against what it should.

python -m tests.mutation.evaluate SCRATCH [--json PATH]   # SCRATCH: an empty folder for a copy of the repository
"""

import argparse
import json
import random
import re
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from engine.artifacts.files import canonical_json
from engine.identity.fingerprint import StageCode
from engine.identity.library import Library
from pipelines import graph
from tests.mutation.mutations import Mutation, behaviour, modules, neutral
from tests.mutation.oracle import STAGES, Oracle, make
from tests.project import Project

SEED = 20260707
BEHAVIOUR_MUTATIONS = 240
NEUTRAL_MUTATIONS = 240
OUTSIDE = re.compile(
    r"studies\b|pipelines\.(cli|code_files|commands|errors|graph|hooks|parameters|rank|restore|runner|settings|"
    r"stages_file|status|pipeline_registry|track|gates)\b"
)
"""Modules that no stage is made by: commands, machinery, studies."""


@dataclass
class Row:
    """Figures of one kind of mutation."""

    kind: str
    neutral: bool
    mutations: int = 0
    expected: int = 0
    detected: int = 0
    stale: int = 0
    quiet: int = 0
    wrong: list[str] = field(default_factory=list)


class Bench:
    """Fingerprints of all stages, of the tree as it is and with one module's text replaced."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.library = Library(root)
        self.before = self.fingerprints(self.library)

    def fingerprints(self, library: Library) -> dict[str, StageCode]:
        """Return each stage's code."""
        return {stage: graph.code_of(stage, library) for stage in STAGES}

    def stale(self, mutation: Mutation) -> set[str]:
        """Return the stages that a mutation makes stale."""
        return self.changed(self.library.with_source(mutation.place.module, mutation.source))

    def changed(self, library: Library) -> set[str]:
        """Return the stages whose fingerprint has changed."""
        now = self.fingerprints(library)
        return {stage for stage in STAGES if now[stage] != self.before[stage]}


def draw_behaviour(root: Path, oracle: Oracle, random_: random.Random) -> list[Mutation]:
    """Mutations of code that a run executed, so many of each kind as there are, in turn."""
    pools: dict[str, list[Mutation]] = {}
    for name, path in _shuffled(root, random_):
        for kind, mutation in behaviour(root, name, path, random_).items():
            if oracle.concerned(mutation.place):
                pools.setdefault(kind, []).append(mutation)
        if sum(map(len, pools.values())) > BEHAVIOUR_MUTATIONS:
            break
    return _in_turn(pools, BEHAVIOUR_MUTATIONS, random_)


def draw_neutral(root: Path, oracle: Oracle, random_: random.Random) -> list[Mutation]:
    """Mutations that change nothing, of modules that a run imported; and edits of what no stage uses."""
    imported = {module for trace in oracle.traces.values() for module in trace["modules"]}
    pools: dict[str, list[Mutation]] = {}
    for name, path in _shuffled(root, random_):
        if name in imported and sum(map(len, pools.values())) < NEUTRAL_MUTATIONS:
            for kind, mutation in neutral(root, name, path, random_).items():
                pools.setdefault(kind, []).append(mutation)
    pools["edit nothing reaches"] = list(unreached(root, random_))
    return _in_turn(pools, NEUTRAL_MUTATIONS, random_)


def unreached(root: Path, random_: random.Random) -> list[Mutation]:
    """Edits of functions whose name no other text of a stage's code mentions, and of modules outside all stages."""
    texts = {name: (root / path).read_text() for name, path in modules(root).items()}
    inside = Counter(
        word for name, text in texts.items() if not OUTSIDE.match(name) for word in re.findall(r"\w+", text)
    )
    edits: list[Mutation] = []
    for name, path in _shuffled(root, random_):
        if len(edits) > NEUTRAL_MUTATIONS // 8:
            break
        for mutation in behaviour(root, name, path, random_).values():
            function = mutation.place.function
            plain = function is not None and "." not in function[1] and mutation.place.kind is None
            if OUTSIDE.match(name) or (plain and function is not None and inside[function[1]] == 1):
                edits.append(Mutation("edit nothing reaches", mutation.place, mutation.source))
    return edits


def _shuffled(root: Path, random_: random.Random) -> list[tuple[str, str]]:
    pairs = list(modules(root).items())
    random_.shuffle(pairs)
    return pairs


def _in_turn(pools: dict[str, list[Mutation]], most: int, random_: random.Random) -> list[Mutation]:
    for pool in pools.values():
        random_.shuffle(pool)
    chosen: list[Mutation] = []
    while len(chosen) < most and any(pools.values()):
        chosen += [pool.pop() for _, pool in sorted(pools.items()) if pool]
    return chosen[:most]


def evaluate(root: Path, oracle: Oracle) -> list[Row]:
    """Return a row for every kind of mutation: stages that should be stale, and those that are."""
    random_ = random.Random(SEED)
    bench = Bench(root)
    rows: dict[str, Row] = {}
    for mutation in draw_behaviour(root, oracle, random_):
        row = rows.setdefault(mutation.kind, Row(mutation.kind, neutral=False))
        _demand(row, _name(mutation), oracle.concerned(mutation.place), bench.stale(mutation))
    for mutation in draw_neutral(root, oracle, random_):
        row = rows.setdefault(mutation.kind, Row(mutation.kind, neutral=True))
        _refuse(row, _name(mutation), bench.stale(mutation))
    for row in (_files(root, bench), *_configuration(bench)):
        rows[row.kind] = row
    return list(rows.values())


def _demand(row: Row, name: str, wanted: set[str], stale: set[str]) -> None:
    row.mutations += 1
    row.expected += len(wanted)
    row.detected += len(wanted & stale)
    row.stale += len(stale)
    if wanted - stale:
        row.wrong.append(f"{name}: {sorted(wanted - stale)} not stale")


def _refuse(row: Row, name: str, stale: set[str]) -> None:
    row.mutations += 1
    row.stale += len(stale)
    row.quiet += not stale
    if stale:
        row.wrong.append(f"{name}: {sorted(stale)} stale")


def _name(mutation: Mutation) -> str:
    place = mutation.place
    return f"{mutation.kind} in {place.path} {place.function or place.kind or place.constant or ''}"


READERS: dict[str, set[str]] = {"evaluate": {"evaluate"}, "toolworld": {"tooluse"}, "scale": set()}
"""A folder of code → a stage that reads its files; the planner's are read by a command alone."""


def _files(root: Path, bench: Bench) -> Row:
    """Edit prompts, templates and tables beside the code: each concerns at least a stage that imports its package."""
    row = Row("prompt or template file", neutral=False)
    for path in sorted([*(root / "engine").rglob("*"), *(root / "nodes").rglob("*")]):
        if path.is_file() and path.suffix not in {".py", ".pyc"}:
            text = path.read_bytes()
            expected = next((stages for part, stages in READERS.items() if part in path.parts), {"sft"})
            path.write_bytes(text + b"\nx")
            _demand(row, path.name, expected, bench.changed(Library(root)))
            path.write_bytes(text)
    return row


def _configuration(bench: Bench) -> list[Row]:
    """Edit catalog entries (which concern their readers and maker), gates (the maker) and versions (importers)."""
    entry, gate = Row("catalog entry", neutral=False), Row("gate's suite", neutral=False)
    for dataset, fields in graph.catalog_entries(None).items():
        users = {
            stage
            for stage in STAGES
            if dataset in (*graph.stage_graph(stage).inputs, *graph.stage_graph(stage).outputs)
        }
        with pytest.MonkeyPatch.context() as patch:
            other = {**graph.catalog_entries(None), dataset: {**fields, "note": 1}}
            patch.setattr(graph, "catalog_entries", lambda _, other=other: other)
            _demand(entry, dataset, users, bench.changed(bench.library))
        if "gate" in fields:
            with pytest.MonkeyPatch.context() as patch:
                gates = {**graph.config(None, "gates"), fields["gate"]: {"changed": 1}}
                config = graph.config
                patch.setattr(graph, "config", lambda p, s, g=gates, c=config: g if s == "gates" else c(p, s))
                _demand(gate, dataset, users, bench.changed(bench.library))
    return [entry, gate]


def figures(rows: list[Row]) -> dict[str, Any]:
    """Return the recall of the kinds that change behaviour, and the precision of those that do not."""
    loud, quiet = [row for row in rows if not row.neutral], [row for row in rows if row.neutral]
    return {
        "recall": sum(row.detected for row in loud) / sum(row.expected for row in loud),
        "behaviour_mutations": sum(row.mutations for row in loud),
        "precision": sum(row.quiet for row in quiet) / sum(row.mutations for row in quiet),
        "neutral_mutations": sum(row.mutations for row in quiet),
    }


def table(rows: list[Row]) -> str:
    """Return the figures as a table for people."""
    lines = [f"{'kind':26} {'edits':>5} {'recall':>8} {'precision':>9} {'stages stale':>12}"]
    for row in rows:
        recall = "" if row.neutral else f"{row.detected / row.expected:.1%}"
        precision = f"{row.quiet / row.mutations:.1%}" if row.neutral else ""
        lines.append(f"{row.kind:26} {row.mutations:>5} {recall:>8} {precision:>9} {row.stale / row.mutations:>12.1f}")
    return "\n".join([*lines, json.dumps(figures(rows)), *(sentence for row in rows for sentence in row.wrong)])


def main() -> None:
    """Evaluate in a scratch copy; print and save the figures."""
    parser = argparse.ArgumentParser(description="Fingerprints under mutation.")
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    shutil.rmtree(arguments.scratch, ignore_errors=True)
    project = Project(arguments.scratch).path
    rows = evaluate(project, make(project))
    print(table(rows))
    if arguments.json:
        records = [{name: value for name, value in vars(row).items() if name != "wrong"} for row in rows]
        arguments.json.write_bytes(canonical_json({**figures(rows), "seed": SEED, "rows": records}))


if __name__ == "__main__":
    main()
