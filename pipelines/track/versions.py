"""Pipeline versions: sets of stage runs that belong together, by the digests of the datasets that they passed on.

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
    versions_so_far: list[Version] = []
    good_runs: list[Record] = []
    for record in sorted(records, key=lambda record: (str(record["finished"]), record["stage"])):
        good = record["outcome"] in GOOD
        ancestry = _ancestry(record, good_runs)
        home = next((version for version in reversed(versions_so_far) if _fits(record, ancestry, version)), None)
        if home is None:
            home = Version(f"{record['stage']}-{record['key']}-{str(record['finished'])[:26]}")
            versions_so_far.append(home)
        if good:
            home.runs |= {stage: run for stage, run in ancestry.items() if stage not in home.runs} | {
                record["stage"]: record
            }
            good_runs.append(record)
        home.members.append(record)
    return versions_so_far


def home_of(running: Record, records: list[Record], known_versions: list[Version]) -> Version | None:
    """Return the version that a running stage will most likely belong to; None if it opens one.

    Its outputs are not known yet. Under a version's own key it makes the same outputs again, under another key others.

    Args:
        running: the stage's begun.json: stage, key and its parts.
        records: all run records of the profile.
        known_versions: their versions.

    """
    good_runs = sorted(
        (record for record in records if record["outcome"] in GOOD), key=lambda run: str(run["finished"])
    )
    reader = {**running, "outputs": {}}
    ancestry = _ancestry(reader, good_runs)
    for version in reversed(known_versions):
        member = version.runs.get(running["stage"])
        if (member is None or member["key"] == running["key"]) and _fits(reader, ancestry, version):
            return version
    return None


def _ancestry(record: Record, good_runs: list[Record]) -> dict[str, Record]:
    """Return the runs whose outputs a record read, and their own: for each input the newest run that made it."""
    ancestors: dict[str, Record] = {}
    waiting = [record]
    while waiting:
        reader = waiting.pop()
        for name, digest in reader["parts"]["inputs"].items():
            maker = next((run for run in reversed(good_runs) if run["outputs"].get(name) == digest), None)
            if maker is not None and maker["stage"] not in ancestors:
                ancestors[maker["stage"]] = maker
                waiting.append(maker)
    return ancestors


def _fits(record: Record, ancestry: dict[str, Record], version: Version) -> bool:
    """Return whether every dataset of the record and its ancestors is absent from the version or the same in it."""
    ours, theirs = _datasets([*ancestry.values(), record]), _datasets(list(version.runs.values()))
    return all(theirs.get(name, digest) == digest for name, digest in ours.items())


def _datasets(runs: list[Record]) -> dict[str, str]:
    """Return dataset → digest, for all datasets that the runs read or made."""
    return {
        name: digest
        for run in runs
        for part in (run["parts"]["inputs"], run["outputs"])
        for name, digest in part.items()
    }
