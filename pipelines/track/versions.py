"""Pipeline versions: which runs of stages belong together, read off the digests that they passed on.

A version is a set of stage runs, at most one result a stage, in which each run read exactly what the version's
other runs left. Changing a parameter of `sft` therefore opens a version that shares corpus to extend with the
one before, and the two can be compared from end to end.
"""

from dataclasses import dataclass, field
from typing import Any

from engine.identity.records import GOOD

Record = dict[str, Any]


@dataclass
class Version:
    """One consistent set of stage runs.

    Attributes:
        name: stage and key of the run that opened it; stays the same as runs are added.
        runs: stage → the run whose outputs count.
        members: every record first seen with this version, failed ones too, oldest first.

    """

    name: str
    runs: dict[str, Record] = field(default_factory=dict)
    members: list[Record] = field(default_factory=list)


def versions(records: list[Record]) -> list[Version]:
    """Group run records into versions, oldest first.

    Each record is a member of exactly one version. A record added at the end never changes where the earlier
    ones belong, so an importer may be run after every stage.

    Args:
        records: run records of one profile, as `read_records` returns them, in any order.

    """
    found: list[Version] = []
    done: list[Record] = []
    for record in sorted(records, key=lambda record: (str(record["finished"]), record["stage"])):
        good = record["outcome"] in GOOD
        ancestry = _ancestry(record, done)
        home = next((version for version in reversed(found) if _fits(record, ancestry, version)), None)
        if home is None:
            home = Version(f"{record['stage']}-{record['key']}-{str(record['finished'])[:26]}")
            found.append(home)
        if good:
            home.runs |= {stage: run for stage, run in ancestry.items() if stage not in home.runs} | {
                record["stage"]: record
            }
            done.append(record)
        home.members.append(record)
    return found


def home_of(running: Record, records: list[Record], found: list[Version]) -> Version | None:
    """The version that a stage which is still running will most likely belong to; None: it opens one.

    Its outputs are not known yet. Under a version's own key it makes what is there again, under another one it will
    make something else.

    Args:
        running: what the runner noted when it began: stage, key and its parts.
        records: all run records of the profile.
        found: their versions.

    """
    done = sorted((record for record in records if record["outcome"] in GOOD), key=lambda run: str(run["finished"]))
    reader = {**running, "outputs": {}}
    ancestry = _ancestry(reader, done)
    for version in reversed(found):
        there = version.runs.get(running["stage"])
        if (there is None or there["key"] == running["key"]) and _fits(reader, ancestry, version):
            return version
    return None


def _ancestry(record: Record, done: list[Record]) -> dict[str, Record]:
    """The runs whose outputs a record read, and theirs: for each input the newest run that left it."""
    found: dict[str, Record] = {}
    waiting = [record]
    while waiting:
        reader = waiting.pop()
        for name, digest in reader["parts"]["inputs"].items():
            maker = next((run for run in reversed(done) if run["outputs"].get(name) == digest), None)
            if maker is not None and maker["stage"] not in found:
                found[maker["stage"]] = maker
                waiting.append(maker)
    return found


def _fits(record: Record, ancestry: dict[str, Record], version: Version) -> bool:
    """Whether no dataset that the record or its ancestors read or left is another one in the version."""
    ours, theirs = _datasets([*ancestry.values(), record]), _datasets(list(version.runs.values()))
    return all(theirs.get(name, digest) == digest for name, digest in ours.items())


def _datasets(runs: list[Record]) -> dict[str, str]:
    """Dataset → digest, as the runs read and left them."""
    return {
        name: digest
        for run in runs
        for part in (run["parts"]["inputs"], run["outputs"])
        for name, digest in part.items()
    }
