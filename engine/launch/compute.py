"""Compute classes: where a node runs, and in how many processes. They are never part of a stage's identity."""

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    StrictBool,
    field_validator,
    model_validator,
)

from engine.checked import FromOne, FromZero, checked
from engine.credentials import FILE, holds_credentials, names_secret
from engine.device import CUDA
from engine.errors import UserError
from engine.parallel.layout import WHOLE, Layout, check_layout
from engine.yaml_file import read_yaml

# Waiting threads spin for some microseconds, then sleep: always spinning, they crawl next to other work (506 tokens per
# second); never spinning, they are half as fast on idle cores (6,193 against 11,792).
SHORT_SPIN = {"GOMP_SPINCOUNT": "10000"}
"""Part of every rank's environment, wherever it runs."""
COMPUTE = "K2_COMPUTE"
"""Names a file whose compute classes replace the profile's, to try dispatch without a separate profile."""
FileOf = Callable[[str], str]
"""Returns the file that has the settings of a class, for messages."""
_SHOWN = (
    "which job.sbatch would show; put it into a file and let a line of `environment` read it: export NAME=$(cat FILE), "
    f"or NAME{FILE}=FILE"
)
_TIME = re.compile(r"(\d+-\d+(:\d+){0,2}|\d+(:\d+){0,2})")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _time(value: Any) -> str:
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise ValueError("not a time as Slurm writes it; put one such as '2-00:00:00' in quotes")
    return value


def _word(value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or not value or set(value) & set(" \t\n#")):
        raise ValueError("not a single word; write one, in quotes, or null")
    return value


def _line(value: str) -> str:
    if "\n" in value:
        raise ValueError("not a single line; write an entry for each")
    return value


def _variable(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError("not the name of a variable")
    return value


Time = Annotated[str, BeforeValidator(_time)]
Word = Annotated[str | None, BeforeValidator(_word)]
Line = Annotated[str, AfterValidator(_line)]
Variable = Annotated[str, AfterValidator(_variable)]
Setting = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, int) else value)]


class Container(BaseModel):
    """The container of the ranks: nothing (`none`), or an image for pyxis or apptainer; `mounts` as `HOST:INSIDE`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["none", "pyxis", "apptainer"] = "none"
    image: str | None = None
    mounts: tuple[Line, ...] = ()

    @model_validator(mode="after")
    def _image_is_used(self) -> Self:
        if self.kind != "none" and not self.image:
            raise ValueError(f"kind {self.kind} needs the image to run; name a file or an address")
        if self.kind == "none" and self.image:
            raise ValueError("its image would not be used; choose kind: pyxis or apptainer")
        return self


class ComputeClass(BaseModel):
    """Where the nodes of a class run: in the driver, in `processes` ranks beside it, or as a Slurm job.

    `device` is where a node's process keeps its model and all that it computes (engine/device.py): the CPU, or with
    cuda one GPU for each rank; there `strict_kernels` refuses an op whose Triton kernel cannot run, which else computes
    in torch's slower form (kernels/choice.py). `layout` says how the ranks of a training divide the model among
    themselves; without it each holds all of it.

    The other fields are Slurm's, with sbatch's names. `processes_per_node` ranks run on each node, by default one per
    GPU. A job is asked to end `drain_lead_s` seconds before its time is up, and its progress is kept. `requeue_budget`
    is how often in a row it may be tried again without a new checkpoint. `array` is the most elements in which a node
    tagged `sharded` is made. `heartbeat_stale_s`: seconds without a sign of life after which a running job is requeued.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    launcher: Literal["inplace", "local", "slurm"]
    device: Literal["cpu", "cuda"] = "cpu"
    layout: Layout = WHOLE
    processes: FromOne = 1
    nodes: FromOne = 1
    gpus_per_node: FromZero = 0
    gres_type: Word = None
    processes_per_node: FromOne = 0
    cpus_per_task: FromOne = 1
    mem: Word = None
    exclusive: StrictBool = False
    time: Time = ""
    partition: Word = None
    account: Word = None
    qos: Word = None
    container: Container = Container()
    environment: tuple[Line, ...] = ()
    fabric: dict[Variable, Setting] = {}
    drain_lead_s: FromZero = 300
    requeue_budget: FromZero = 3
    exclude: tuple[Line, ...] = ()
    array: FromOne = 1
    heartbeat_stale_s: FromOne = 1800
    strict_kernels: StrictBool = False

    @property
    def ranks(self) -> int:
        """The number of ranks of a node that shares its work among ranks."""
        return self.nodes * self.ranks_per_node if self.launcher == "slurm" else self.processes

    @property
    def ranks_per_node(self) -> int:
        """The number of ranks on each node of a Slurm job."""
        return self.processes_per_node or self.gpus_per_node or 1

    @field_validator("environment", "fabric", "container")
    @classmethod
    def _shows_no_secret(cls, value: Any) -> Any:
        """Refuse secrets that would appear in job.sbatch, which others can read and which is kept with the record."""
        lines = value
        if isinstance(value, Container):
            lines = (value.image or "", *value.mounts)
        elif isinstance(value, dict):
            lines = value.values()
            for name in filter(names_secret, value):
                raise ValueError(f"{name} holds a secret, {_SHOWN}")
        for number, line in enumerate(lines, 1):
            if holds_credentials(line):
                raise ValueError(f"entry {number} holds a secret, {_SHOWN}")
        return value

    @model_validator(mode="after")
    def _fields_are_the_launchers(self) -> Self:
        slurm = [name for name in type(self).model_fields if name != "processes"]
        own = slurm if self.launcher == "slurm" else ["launcher", "device", "layout", "processes", "strict_kernels"]
        for name in type(self).model_fields:
            if name in self.model_fields_set and name not in own:
                raise ValueError(f"launcher {self.launcher} has no field {name}; its fields are {', '.join(own)}")
        return self

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if self.strict_kernels and self.device != CUDA:
            raise ValueError("strict_kernels: true concerns a GPU's kernels; set device: cuda with it")
        if self.launcher == "inplace" and self.processes > 1:
            raise ValueError(f"{self.processes} processes cannot run in place; choose launcher: local, or processes: 1")
        if self.launcher != "slurm":
            return self
        if not self.time:
            raise ValueError("the field time is missing; say how long a job may run, such as time: '1-00:00:00'")
        if self.device == CUDA and self.gpus_per_node < self.ranks_per_node:
            raise ValueError(
                f"device: cuda needs a GPU for each of a node's {self.ranks_per_node} ranks, and gpus_per_node is "
                f"{self.gpus_per_node}; raise it, or set device: cpu"
            )
        if self.gres_type and not self.gpus_per_node:
            raise ValueError(f"gres_type: there are no GPUs to be {self.gres_type}; set gpus_per_node, or null")
        if self.array > 1 and self.ranks > 1:
            raise ValueError(
                f"array: its elements are one process each, and this class has {self.ranks}; set nodes: 1 and "
                "processes_per_node: 1, or array: 1"
            )
        if self.drain_lead_s and self.drain_lead_s >= seconds(self.time):
            raise ValueError(
                f"drain_lead_s: {self.drain_lead_s} s is all of the time {self.time}; set less, or more time"
            )
        return self


def overlaid(compute: dict[str, Any], path: str | None) -> dict[str, Any]:
    """Return the profile's compute classes, with those in the file `path` replaced as a whole."""
    if not path:
        return compute
    own = read_yaml(path, f"{COMPUTE}={path}")
    if not isinstance(own, dict):
        raise UserError(f"{COMPUTE}={path} holds no mapping of compute classes: write it as conf/base/compute.yml is.")
    return {**compute, **own}


def _any_profile(name: str) -> str:
    return "compute.yml"


def check_compute(compute: dict[str, Any], names: Sequence[str], file_of: FileOf = _any_profile) -> None:
    """Refuse settings in which one of the classes `names` is missing or wrong, or that contain any other class."""
    for name in compute:
        if name not in names:
            raise UserError(f"{file_of(name)}: there is no class {name!r}; choose one of {', '.join(names)}.")
    for name in names:
        compute_class(compute, name, file_of)


def compute_class(compute: dict[str, Any], name: str, file_of: FileOf = _any_profile) -> ComputeClass:
    """Return the settings of compute class `name`.

    Args:
        compute: conf/<profile>/compute.yml over conf/base/compute.yml: class → settings.
        name: cpu, llm or train.
        file_of: returns the file that has a class's settings.

    Raises:
        UserError: the class is missing, lacks a field, has an unknown field or one whose value its launcher cannot use,
            or two fields that contradict each other.

    """
    if name not in compute:
        raise UserError(f"{file_of(name)} has no class {name!r}: add `{name}: {{ launcher: inplace }}`.")
    return checked(ComputeClass, compute[name], f"{file_of(name)}: class {name}")


def check_layouts(
    compute: dict[str, Any], names: Sequence[str], layers: int, experts: int, file_of: FileOf = _any_profile
) -> None:
    """Refuse a class whose layout does not fit its number of ranks, or a model of so many layers and routed experts."""
    for name in names:
        chosen = compute_class(compute, name, file_of)
        check_layout(chosen.layout, chosen.ranks, layers, experts, f"{file_of(name)}: class {name}, field layout")


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
