"""Compute classes: where a node runs, and in how many processes. They are never part of a stage's identity."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from engine.credentials import FILE, holds_credentials, names_secret
from engine.errors import UserError
from engine.parallel.layout import WHOLE, Layout, check_layout
from engine.yaml_file import read_yaml

LAUNCHERS = ("inplace", "local", "slurm")
CONTAINERS = ("none", "pyxis", "apptainer")
EVERYWHERE, LOCALLY = {"launcher", "layout"}, {"processes"}
# Waiting threads spin for some microseconds, then sleep: always spinning, they crawl next to other work (506 tokens per
# second); never spinning, they are half as fast on idle cores (6,193 against 11,792).
SHORT_SPIN = {"GOMP_SPINCOUNT": "10000"}
"""Part of every rank's environment, wherever it runs."""
COMPUTE = "K2_COMPUTE"
"""Names a file whose compute classes replace the profile's, to try dispatch without a separate profile."""
_TIME = re.compile(r"(\d+-\d+(:\d+){0,2}|\d+(:\d+){0,2})")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Container:
    """The container of the ranks: nothing (`none`), or an image for pyxis or apptainer; `mounts` as `HOST:INSIDE`."""

    kind: str = "none"
    image: str | None = None
    mounts: tuple[str, ...] = ()


@dataclass(frozen=True)
class ComputeClass:
    """Where the nodes of a class run: in the driver, in `processes` ranks beside it, or as a Slurm job.

    `layout` says how the ranks of a training divide the model among themselves; without it each holds all of it.

    The other fields are Slurm's, with sbatch's names. `processes_per_node` ranks run on each node, by default one per
    GPU. A job is asked to end `drain_lead_s` seconds before its time is up, and its progress is kept. `requeue_budget`
    is how often in a row it may be tried again without a new checkpoint. `array` is the most elements in which a node
    tagged `sharded` is made. `heartbeat_stale_s`: seconds without a sign of life after which a running job is requeued.
    """

    launcher: str
    processes: int = 1
    layout: Layout = WHOLE
    nodes: int = 1
    gpus_per_node: int = 0
    gres_type: str | None = None
    processes_per_node: int = 0
    cpus_per_task: int = 1
    mem: str | None = None
    exclusive: bool = False
    time: str = ""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    container: Container = Container()
    environment: tuple[str, ...] = ()
    fabric: dict[str, str] = field(default_factory=dict)
    drain_lead_s: int = 300
    requeue_budget: int = 3
    exclude: tuple[str, ...] = ()
    array: int = 1
    heartbeat_stale_s: int = 1800

    @property
    def ranks(self) -> int:
        """The number of ranks of a node that shares its work among ranks."""
        return self.nodes * self.ranks_per_node if self.launcher == "slurm" else self.processes

    @property
    def ranks_per_node(self) -> int:
        """The number of ranks on each node of a Slurm job."""
        return self.processes_per_node or self.gpus_per_node or 1


SLURMS = {each.name for each in fields(ComputeClass)} - EVERYWHERE - LOCALLY
ALLOWED = {"inplace": EVERYWHERE | LOCALLY, "local": EVERYWHERE | LOCALLY, "slurm": EVERYWHERE | SLURMS}
"""The fields that a class may have, by its launcher."""
LEAST = {
    **dict.fromkeys(("processes", "nodes", "processes_per_node", "cpus_per_task", "array", "heartbeat_stale_s"), 1),
    **dict.fromkeys(("gpus_per_node", "drain_lead_s", "requeue_budget"), 0),
}
"""Integer fields and their smallest allowed values."""
WORDS, LISTS = ("gres_type", "mem", "partition", "account", "qos"), ("environment", "exclude")


def overlaid(compute: dict[str, Any], path: str | None) -> dict[str, Any]:
    """Return the profile's compute classes, with those in the file `path` replaced as a whole."""
    if not path:
        return compute
    own = read_yaml(path, f"{COMPUTE}={path}")
    if not isinstance(own, dict):
        raise UserError(f"{COMPUTE}={path} holds no mapping of compute classes: write it as conf/base/compute.yml is.")
    return {**compute, **own}


def check_compute(compute: dict[str, Any], names: Sequence[str]) -> None:
    """Refuse settings in which one of the classes `names` is missing or wrong, or that contain any other class."""
    for name in compute:
        if name not in names:
            raise UserError(f"compute.yml: there is no class {name!r}; choose one of {', '.join(names)}.")
    for name in names:
        compute_class(compute, name)


def compute_class(compute: dict[str, Any], name: str) -> ComputeClass:
    """Return the settings of compute class `name`.

    Args:
        compute: conf/<profile>/compute.yml over conf/base/compute.yml: class → settings.
        name: cpu, llm or train.

    Raises:
        UserError: the class is missing, lacks a field, has an unknown field or one whose value its launcher cannot use,
            or two fields that contradict each other.

    """
    if name not in compute:
        raise UserError(f"compute.yml has no class {name!r}: add `{name}: {{ launcher: inplace }}`.")
    given = compute[name]
    if not isinstance(given, dict) or "launcher" not in given:
        raise UserError(f"compute.yml: class {name} must have the field launcher; it is {given!r}.")
    where = f"compute.yml: class {name}, field "
    if given["launcher"] not in LAUNCHERS:
        raise UserError(f"{where}launcher: {given['launcher']!r} is unknown; choose one of {', '.join(LAUNCHERS)}.")
    for unknown in sorted(set(given) - ALLOWED[given["launcher"]]):
        raise UserError(
            f"{where}{unknown}: launcher {given['launcher']} has no such field; its fields are "
            f"{', '.join(sorted(ALLOWED[given['launcher']]))}."
        )
    values = {key: _value(key, value, where) for key, value in given.items()}
    _refuse_secrets(values, where)
    chosen = ComputeClass(**values)
    _refuse_contradictions(chosen, where)
    return chosen


def check_layouts(compute: dict[str, Any], names: Sequence[str], layers: int, experts: int) -> None:
    """Refuse a class whose layout does not fit its number of ranks, or a model of so many layers and routed experts."""
    for name in names:
        chosen = compute_class(compute, name)
        check_layout(chosen.layout, chosen.ranks, layers, experts, f"compute.yml: class {name}, field layout")


def _value(key: str, value: Any, where: str) -> Any:
    """Return a field's value in the dataclass's type; raises UserError saying what the value must be."""
    if key in LEAST:
        if type(value) is not int or value < LEAST[key]:
            raise UserError(f"{where}{key}: {value!r} is not a whole number from {LEAST[key]} up.")
    elif key == "time":
        if not isinstance(value, str) or not _TIME.fullmatch(value):
            raise UserError(
                f"{where}time: {value!r} is not a time as Slurm writes it; put one such as '2-00:00:00' in quotes."
            )
    elif key == "exclusive":
        if not isinstance(value, bool):
            raise UserError(f"{where}exclusive: {value!r} is neither true nor false.")
    elif key in WORDS:
        if value is not None and (not isinstance(value, str) or not value or set(value) & set(" \t\n#")):
            raise UserError(f"{where}{key}: {value!r} is not a single word; write one, in quotes, or null.")
    elif key in LISTS:
        return _words(value, where + key)
    elif key == "fabric":
        return _variables(value, where + key)
    elif key == "layout":
        return Layout.of(value, where + key)
    elif key == "container":
        return _container(value, where + key)
    return value


def _words(value: Any, field: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(line, str) and "\n" not in line for line in value):
        raise UserError(f'{field}: {value!r} is not a list of lines; write one such as ["first", "second"].')
    return tuple(value)


def _variables(value: Any, field: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(setting, str | int) for setting in value.values()):
        raise UserError(f"{field}: {value!r} is not a mapping of variables to their values.")
    for name in value:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UserError(f"{field}: {name!r} is not the name of a variable.")
    return {name: str(setting) for name, setting in value.items()}


def _container(value: Any, field: str) -> Container:
    if not isinstance(value, dict) or not set(value) <= {"kind", "image", "mounts"}:
        raise UserError(f"{field}: {value!r} may have the fields kind, image and mounts, nothing else.")
    kind, image = value.get("kind", "none"), value.get("image")
    if kind not in CONTAINERS:
        raise UserError(f"{field}.kind: {kind!r} is unknown; choose one of {', '.join(CONTAINERS)}.")
    if kind != "none" and not isinstance(image, str):
        raise UserError(f"{field}.image: kind {kind} needs the image to run; name a file or an address.")
    if kind == "none" and image:
        raise UserError(f"{field}.image: {image!r} would not be used; choose kind: pyxis or apptainer.")
    return Container(kind, image, _words(value.get("mounts", []), f"{field}.mounts"))


def _refuse_secrets(values: dict[str, Any], where: str) -> None:
    """Refuse secrets that would appear in job.sbatch, which others can read and which is kept with the run record."""
    remedy = f"put it into a file and let a line of `environment` read it: export NAME=$(cat FILE), or NAME{FILE}=FILE."
    for name in values.get("fabric", {}):
        if names_secret(name):
            raise UserError(f"{where}fabric: {name} holds a secret, which job.sbatch would show; {remedy}")
    shown = {"environment": values.get("environment", ()), "fabric": values.get("fabric", {}).values()}
    if container := values.get("container"):
        shown["container"] = (container.image or "", *container.mounts)
    for key, lines in shown.items():
        for number, line in enumerate(lines, 1):
            if holds_credentials(line):
                raise UserError(f"{where}{key}: entry {number} holds a secret, which job.sbatch would show; {remedy}")


def _refuse_contradictions(chosen: ComputeClass, where: str) -> None:
    if chosen.launcher == "inplace" and chosen.processes > 1:
        raise UserError(
            f"{where}processes: {chosen.processes} cannot run in place; choose launcher: local, or processes: 1."
        )
    if chosen.launcher != "slurm":
        return
    if not chosen.time:
        raise UserError(f"{where}time is missing: say how long a job may run, such as time: '1-00:00:00'.")
    if chosen.gres_type and not chosen.gpus_per_node:
        raise UserError(f"{where}gres_type: there are no GPUs to be {chosen.gres_type}; set gpus_per_node, or null.")
    if chosen.array > 1 and chosen.ranks > 1:
        raise UserError(
            f"{where}array: its elements are one process each, and this class has {chosen.ranks}; set nodes: 1 and "
            "processes_per_node: 1, or array: 1."
        )
    if chosen.drain_lead_s and chosen.drain_lead_s >= seconds(chosen.time):
        raise UserError(
            f"{where}drain_lead_s: {chosen.drain_lead_s} s is all of the time {chosen.time}; set less, or more time."
        )


def seconds(time: str) -> int:
    """Return seconds of a Slurm time: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]].

    >>> seconds("10"), seconds("1:30"), seconds("2:00:00"), seconds("1-12")
    (600, 90, 7200, 129600)
    """
    days, _, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if days:
        hours, minutes, rest_s = (*parts, 0, 0)[:3]
    else:
        hours, minutes, rest_s = {1: (0, *parts, 0), 2: (0, *parts), 3: tuple(parts)}[len(parts)]
    return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + rest_s
