"""A profile's registered model: one version for each published checkpoint, and aliases that only a passed gate moves.

The gates are in conf/base/promotion.yml, overlaid by the profile's. A version refers to its checkpoint (its path,
its digest, the run record); nothing is copied.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine.artifacts.files import canonical_json, digest_bytes
from engine.checked import checked
from engine.errors import UserError
from engine.identity.records import GOOD
from pipelines import graph
from pipelines.gates.gate import judge_row
from pipelines.gates.suites import Bounds, Suite
from pipelines.track.importer import record_name
from pipelines.track.store import LONGEST_VALUE, RECORD, Store, where
from pipelines.track.versions import Record

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

SECTION = "promotion"
DIGEST, CHECKPOINT, JUDGED, GATE = "k2.digest", "k2.checkpoint", "k2.gate.digest", "k2.gate"
BETWEEN = "expect_column_values_to_be_between"


class Condition(Bounds):
    """The condition on one metric of a run, from which `minus`, another of its metrics, is subtracted first."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    minus: str | None = None
    description: str | None = None

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if not {"min_value", "max_value"} & self.model_fields_set:
            raise ValueError("it needs min_value or max_value")
        return self


class Entry(BaseModel):
    """A gate's entry in promotion.yml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    checkpoint: str
    metrics: dict[str, Condition] = Field(min_length=1)


@dataclass(frozen=True)
class AliasVerdict:
    """A gate's decision about one version; `sentence` states it for the terminal."""

    alias: str
    version: str
    passed: bool
    sentence: str


@dataclass(frozen=True)
class Gate:
    """One alias: the checkpoint that it may point to, and the conditions on the metrics of that checkpoint's run."""

    alias: str
    checkpoint: str
    metrics: dict[str, dict[str, Any]]

    @property
    def digest(self) -> str:
        """The gate's digest: versions judged by a gate with another digest are judged again."""
        return digest_bytes(canonical_json([self.checkpoint, self.metrics]))

    def suite(self) -> Suite:
        """Return the gate as a suite of Great Expectations' configurations."""
        rules = [
            {"type": BETWEEN, "column": _column(name, rule), **{k: v for k, v in rule.items() if k != "minus"}}
            for name, rule in self.metrics.items()
        ]
        return Suite(self.alias, "", {}, rules)

    def row(self, record: Record) -> dict[str, Any]:
        """Return the figures that the gate judges; one that is text, or missing in an adopted checkpoint, is nan.

        Raises:
            UserError: the stage has no such metric.

        """
        metrics = record["metrics"]
        names = {name: (name, rule.get("minus", name)) for name, rule in self.metrics.items()}
        for name in dict.fromkeys(name for pair in names.values() for name in pair):
            if name not in metrics and record["outcome"] == "success":
                raise UserError(
                    f"conf/base/promotion.yml: gate {self.alias} names the metric {name}, which stage "
                    f"{record['stage']} does not have; it has {', '.join(sorted(metrics))}."
                )
        return {
            _column(name, rule): _number(metrics.get(name))
            - (_number(metrics.get(rule["minus"])) if "minus" in rule else 0)
            for name, rule in self.metrics.items()
        }


def load_gates(profile: str) -> list[Gate]:
    """Return the gates of a profile.

    Raises:
        UserError: a gate has an unknown or wrong field, names no dataset of the catalog, or has no condition.

    """
    return [_gate(alias, entry, profile) for alias, entry in graph.config(profile, SECTION).items()]


def model_name(profile: str) -> str:
    """Return the name of a profile's registered model."""
    return f"k2-{profile}"


def promote(store: Store, records: list[Record]) -> list[AliasVerdict]:
    """Make a version of every checkpoint that has none, and judge those that today's gate has not judged yet.

    Versions are judged in the order in which they were made, so that an alias ends at the newest version that passed;
    a refused version does not move it. The verdict is written to the version's tags.

    Args:
        store: the profile's store, with all `records` imported.
        records: all run records of the profile.

    """
    gates = load_gates(store.profile)
    good = sorted((record for record in records if record["outcome"] in GOOD), key=lambda run: str(run["finished"]))
    candidates = [(gate, record) for record in good for gate in gates if gate.checkpoint in record["outputs"]]
    if not candidates:
        return []
    versions = _versions(store)
    for gate, record in candidates:
        content = (gate.checkpoint, record["outputs"][gate.checkpoint])
        if content not in versions:
            versions[content] = _register(store, gate, record)
    by_name = {record_name(record): record for record in good}
    verdicts = []
    for version in sorted(versions.values(), key=lambda version: int(version.version)):
        judge = next((gate for gate in gates if gate.checkpoint == version.tags.get(CHECKPOINT)), None)
        maker = by_name.get(version.tags.get(RECORD, ""))
        if judge and maker and version.tags.get(JUDGED) != judge.digest:
            verdicts.append(_judge(store, judge, version, maker))
    return verdicts


def _versions(store: Store) -> "dict[tuple[str, str], ModelVersion]":
    """Return (checkpoint, digest) → the model's version; make the model if there is none."""
    name, client = model_name(store.profile), store.client
    if not client.search_registered_models(f"name='{name}'"):
        client.create_registered_model(name, description=f"The checkpoints of profile {store.profile}, by reference.")
    versions: dict[tuple[str, str], ModelVersion] = {}
    token = None
    while True:
        page = client.search_model_versions(f"name='{name}'", max_results=1000, page_token=token)
        versions |= {(version.tags.get(CHECKPOINT, ""), version.tags.get(DIGEST, "")): version for version in page}
        token = page.token
        if not token:
            return versions


def _register(store: Store, gate: Gate, record: Record) -> "ModelVersion":
    """Make a version that refers to the checkpoint's path, its digest and the run that made it."""
    name = record_name(record)
    tags = {RECORD: name, CHECKPOINT: gate.checkpoint, "k2.key": record["key"], "k2.stage": record["stage"]}
    return store.client.create_model_version(
        model_name(store.profile),
        f"k2:///{where(store.profile, gate.checkpoint)}",
        store.id_of(name),
        tags=tags | {DIGEST: record["outputs"][gate.checkpoint]},
        await_creation_for=0,
    )


def _judge(store: Store, gate: Gate, version: "ModelVersion", record: Record) -> AliasVerdict:
    """Judge one version, move the alias if it passed, and then leave the verdict in the version's tags."""
    client, name, number = store.client, model_name(store.profile), str(version.version)
    report = judge_row(gate.checkpoint, gate.row(record), gate.suite())
    previous = client.get_registered_model(name).aliases.get(gate.alias)
    if report.passed:
        client.set_registered_model_alias(name, gate.alias, number)
        sentence = f"{name}: alias {gate.alias} is now version {number}, which passed its gate"
    else:
        stays = f"stays at version {previous}" if previous else "is not set"
        failures = "; ".join(report.failures)
        sentence = f"{name}: alias {gate.alias} {stays}: version {number} was refused, since {failures}"
    tags = {GATE: "passed" if report.passed else "refused", "k2.gate.verdict": sentence[:LONGEST_VALUE]}
    tags |= {
        f"{GATE}.{row['statistic'].replace(' ', '_')}": str(row["observed"]) for row in report.report["expectations"]
    }
    for tag, value in {
        **tags,
        JUDGED: gate.digest,
    }.items():  # the digest comes last, so that a half-written verdict is judged again
        client.set_model_version_tag(name, number, tag, value)
    return AliasVerdict(gate.alias, number, report.passed, sentence)


def _gate(alias: str, entry: Any, profile: str) -> Gate:
    where_ = f"conf/base/promotion.yml or conf/{profile}/promotion.yml: gate {alias}"
    given = checked(Entry, entry, where_)
    if given.checkpoint not in graph.catalog_entries(profile):
        raise UserError(f"{where_} names the checkpoint {given.checkpoint}, which conf/base/catalog does not have.")
    metrics = {name: rule.model_dump(exclude_unset=True) for name, rule in given.metrics.items()}
    return Gate(alias, given.checkpoint, metrics)


def _number(value: Any) -> float:
    return float("nan") if isinstance(value, bool) or not isinstance(value, int | float) else value


def _column(name: str, rule: dict[str, Any]) -> str:
    return f"{name} - {rule['minus']}" if "minus" in rule else name
