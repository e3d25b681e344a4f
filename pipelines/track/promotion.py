"""The registered model of a profile: a version a published checkpoint, and aliases that only a passed gate moves.

The gates are conf/base/promotion.yml, overlaid by the profile's. A version refers to its checkpoint (where it is kept,
its digest, the run record); nothing is copied.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.artifacts.files import canonical_json, digest_bytes
from engine.errors import UserError
from engine.identity.records import GOOD
from pipelines import graph
from pipelines.gates.gate import judge_row
from pipelines.gates.suites import Suite, check_bounds
from pipelines.track.importer import record_name
from pipelines.track.store import LONGEST_VALUE, RECORD, Store, where
from pipelines.track.versions import Record

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

SECTION = "promotion"
DIGEST, CHECKPOINT, JUDGED, GATE = "k2.digest", "k2.checkpoint", "k2.gate.digest", "k2.gate"
BETWEEN = "expect_column_values_to_be_between"
FIELDS = {"min_value", "max_value", "minus", "description"}


@dataclass(frozen=True)
class Verdict:
    """What a gate said about one version; `sentence` is for whoever watches."""

    alias: str
    version: str
    passed: bool
    sentence: str


@dataclass(frozen=True)
class Gate:
    """One alias: the checkpoint that it may point to, and what the metrics of that one's run must satisfy."""

    alias: str
    checkpoint: str
    metrics: dict[str, dict[str, Any]]

    @property
    def digest(self) -> str:
        """Changes with the gate: versions judged by another one are judged again."""
        return digest_bytes(canonical_json([self.checkpoint, self.metrics]))

    def suite(self) -> Suite:
        """The gate as Great Expectations' configurations."""
        rules = [
            {"type": BETWEEN, "column": _column(name, rule), **{k: v for k, v in rule.items() if k != "minus"}}
            for name, rule in self.metrics.items()
        ]
        return Suite(self.alias, "", {}, rules)

    def row(self, record: Record) -> dict[str, Any]:
        """The figures that the gate judges. One that an adopted checkpoint lacks, or that is text, is undefined (nan).

        Raises:
            UserError: the stage has no such metric.

        """
        found = record["metrics"]
        names = {name: (name, rule.get("minus", name)) for name, rule in self.metrics.items()}
        for name in dict.fromkeys(name for pair in names.values() for name in pair):
            if name not in found and record["outcome"] == "success":
                raise UserError(
                    f"conf/base/promotion.yml: gate {self.alias} names the metric {name}, which stage "
                    f"{record['stage']} does not have; it has {', '.join(sorted(found))}."
                )
        return {
            _column(name, rule): _number(found.get(name))
            - (_number(found.get(rule["minus"])) if "minus" in rule else 0)
            for name, rule in self.metrics.items()
        }


def load_gates(profile: str) -> list[Gate]:
    """The gates of a profile.

    Raises:
        UserError: a gate has an unknown field, names no dataset of the catalog, or asks for nothing.

    """
    return [_gate(alias, entry, profile) for alias, entry in graph.config(profile, SECTION).items()]


def model_name(profile: str) -> str:
    """The registered model: one a profile."""
    return f"k2-{profile}"


def promote(store: Store, records: list[Record]) -> list[Verdict]:
    """Make a version of every checkpoint that has none, and judge those that today's gate has not judged yet.

    Versions are judged in the order in which they were made, so that in the end an alias stands at the newest that
    passed; a version that is refused leaves it where it was. The verdict is in the version's tags.

    Args:
        store: the profile's, with all `records` imported.
        records: all run records of the profile.

    """
    gates = load_gates(store.profile)
    good = sorted((record for record in records if record["outcome"] in GOOD), key=lambda run: str(run["finished"]))
    wanted = [(gate, record) for record in good for gate in gates if gate.checkpoint in record["outputs"]]
    if not wanted:
        return []
    versions = _versions(store)
    for gate, record in wanted:
        made = (gate.checkpoint, record["outputs"][gate.checkpoint])
        if made not in versions:
            versions[made] = _register(store, gate, record)
    by_name = {record_name(record): record for record in good}
    verdicts = []
    for version in sorted(versions.values(), key=lambda version: int(version.version)):
        judge = next((gate for gate in gates if gate.checkpoint == version.tags.get(CHECKPOINT)), None)
        told = by_name.get(version.tags.get(RECORD, ""))
        if judge and told and version.tags.get(JUDGED) != judge.digest:
            verdicts.append(_judge(store, judge, version, told))
    return verdicts


def _versions(store: Store) -> "dict[tuple[str, str], ModelVersion]":
    """(checkpoint, digest) → the model's version; makes the model if there is none."""
    name, client = model_name(store.profile), store.client
    if not client.search_registered_models(f"name='{name}'"):
        client.create_registered_model(name, description=f"The checkpoints of profile {store.profile}, by reference.")
    found: dict[tuple[str, str], ModelVersion] = {}
    token = None
    while True:
        page = client.search_model_versions(f"name='{name}'", max_results=1000, page_token=token)
        found |= {(version.tags.get(CHECKPOINT, ""), version.tags.get(DIGEST, "")): version for version in page}
        token = page.token
        if not token:
            return found


def _register(store: Store, gate: Gate, record: Record) -> "ModelVersion":
    """A version that says where the checkpoint is kept, what it holds and which run made it."""
    name = record_name(record)
    tags = {RECORD: name, CHECKPOINT: gate.checkpoint, "k2.key": record["key"], "k2.stage": record["stage"]}
    return store.client.create_model_version(
        model_name(store.profile),
        f"k2:///{where(store.profile, gate.checkpoint)}",
        store.id_of(name),
        tags=tags | {DIGEST: record["outputs"][gate.checkpoint]},
        await_creation_for=0,
    )


def _judge(store: Store, gate: Gate, version: "ModelVersion", record: Record) -> Verdict:
    """Judge one version, move the alias if it passed, and then leave the verdict in the version's tags."""
    client, name, number = store.client, model_name(store.profile), str(version.version)
    report = judge_row(gate.checkpoint, gate.row(record), gate.suite())
    before = client.get_registered_model(name).aliases.get(gate.alias)
    if report.passed:
        client.set_registered_model_alias(name, gate.alias, number)
        sentence = f"{name}: alias {gate.alias} is now version {number}, which passed its gate"
    else:
        stays = f"stays at version {before}" if before else "is not set"
        failures = "; ".join(report.failures)
        sentence = f"{name}: alias {gate.alias} {stays}: version {number} was refused, since {failures}"
    told = {GATE: "passed" if report.passed else "refused", "k2.gate.verdict": sentence[:LONGEST_VALUE]}
    told |= {
        f"{GATE}.{row['statistic'].replace(' ', '_')}": str(row["observed"]) for row in report.report["expectations"]
    }
    for tag, value in {**told, JUDGED: gate.digest}.items():  # the digest last: a verdict half written is given again
        client.set_model_version_tag(name, number, tag, value)
    return Verdict(gate.alias, number, report.passed, sentence)


def _gate(alias: str, entry: dict[str, Any], profile: str) -> Gate:
    where_ = f"conf/base/promotion.yml or conf/{profile}/promotion.yml: gate {alias}"
    if not isinstance(entry, dict):
        raise UserError(f"{where_} is {entry!r}: give it exactly checkpoint and metrics.")
    checkpoint, metrics = entry.get("checkpoint"), entry.get("metrics")
    if set(entry) != {"checkpoint", "metrics"} or not isinstance(metrics, dict) or not metrics:
        raise UserError(f"{where_} has the fields {', '.join(entry)}: give it exactly checkpoint and metrics.")
    if checkpoint not in graph.catalog_entries(profile):
        raise UserError(f"{where_} names the checkpoint {checkpoint}, which conf/base/catalog.yml does not have.")
    for name, rule in metrics.items():
        if not isinstance(rule, dict) or not {"min_value", "max_value"} & set(rule) or set(rule) - FIELDS:
            raise UserError(
                f"{where_}: metric {name} needs min_value or max_value, and may have minus and description: "
                f"it has {rule!r}."
            )
        check_bounds(rule, f"{where_}: metric {name}")
    return Gate(alias, str(checkpoint), {name: dict(rule) for name, rule in metrics.items()})


def _number(value: Any) -> float:
    return float("nan") if isinstance(value, bool) or not isinstance(value, int | float) else value


def _column(name: str, rule: dict[str, Any]) -> str:
    return f"{name} - {rule['minus']}" if "minus" in rule else name
