"""The sbatch file of a node: a header that a person may change, then what runs on the job's first node.

It can be submitted by hand as well. In order, it clears what an earlier attempt left, finds the meeting point, checks
the machines, runs the ranks, and writes to exit.json how they ended. A job that was asked to end in time requeues
itself.
"""

import os
import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from engine.launch.compute import SHORT_SPIN, ComputeClass
from engine.launch.drain import DRAINED
from engine.launch.exchange import FOLDER
from engine.launch.slurm import shell
from engine.launch.slurm.states import HEALTH
from engine.parallel.layout import WHOLE, Grid
from engine.training.position import RESUME

HANDED_ON = (RESUME,)
"""Variables of the driver that its ranks use."""
BASE_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"


@dataclass(frozen=True)
class Job:
    """The job to submit.

    `module` and its arguments are what every rank runs, in the repository `root`, imported from its snapshot `code`;
    `world` says whether there may be several ranks, which then find each other through torchrun. `elements` are the
    shards, of `shards`, that a job array makes; () for a plain job. `exclude` are nodes found unfit.
    """

    name: str
    directory: Path
    root: Path
    code: Path
    workspace: Path
    node: str
    module: tuple[str, ...]
    where: ComputeClass
    world: bool = False
    elements: tuple[int, ...] = ()
    shards: int = 1
    exclude: tuple[str, ...] = ()

    @property
    def several(self) -> bool:
        """Whether the job runs under torchrun."""
        return self.world and self.where.ranks > 1

    @property
    def nodes(self) -> int:
        """The number of nodes requested."""
        return self.where.nodes if self.world else 1


def render(job: Job) -> str:
    """Return the sbatch file."""
    parts = [_header(job), _begin(job), _environment(job)]
    parts += [shell.MEET] * job.several
    parts += [_fill(shell.HEALTH, GPUS=job.where.gpus_per_node, UNFIT=HEALTH)] * (job.where.gpus_per_node > 0)
    parts += [_drain(job), _fill(shell.RANKS, SRUN=_srun(job)), _end(job), "\nexit $RC\n"]
    return "".join(parts)


def _header(job: Job) -> str:
    where = job.where
    of_type = f"{where.gres_type}:" if where.gres_type else ""
    options: dict[str, object] = {
        "job-name": job.name,
        "partition": where.partition,
        "account": where.account,
        "qos": where.qos,
        "nodes": job.nodes,
        "ntasks-per-node": 1,
        "gres": f"gpu:{of_type}{where.gpus_per_node}" if where.gpus_per_node else None,
        "cpus-per-task": where.cpus_per_task,
        "mem": where.mem,
        "exclusive": where.exclusive,
        "wait-all-nodes": 1 if job.nodes > 1 else None,
        "time": where.time,
        "signal": f"B:USR1@{where.drain_lead_s}" if where.drain_lead_s else None,
        "array": ",".join(map(str, job.elements)),
        "exclude": ",".join(dict.fromkeys((*where.exclude, *job.exclude))),
        "requeue": True,
        "open-mode": "append",
        "export": "ALL",
        "chdir": job.root,
        "output": str(job.directory).replace("%", "%%") + f"/{'slurm-%A_%a.out' if job.elements else 'slurm-%j.out'}",
    }
    lines = [f"#SBATCH --{name}{_value(value)}" for name, value in options.items() if value]
    layout = [f"# layout: {where.layout}, dp {Grid.of(where.layout, where.ranks).dp}"] * (
        job.world and where.layout != WHOLE
    )
    return "\n".join(["#!/bin/bash", *lines, *layout, ""])


def _value(value: object) -> str:
    """Return an option's value in the form that sbatch reads in a script; blanks and # must be quoted."""
    if value is True:
        return ""
    text = str(value)
    return f"={text}" if re.fullmatch(r"[\w./:@%,+=~-]*", text) else '="' + re.sub(r'(["\\])', r"\\\1", text) + '"'


def _begin(job: Job) -> str:
    directory = shlex.quote(str(job.directory))
    return _fill(
        shell.BEGIN,
        DIRECTORY=directory,
        RUN_DIR=f"{directory}/element-$SLURM_ARRAY_TASK_ID" if job.elements else directory,
        JOB="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" if job.elements else "$SLURM_JOB_ID",
        WORKSPACE=shlex.quote(str(job.workspace)),
    )


def _environment(job: Job) -> str:
    """Return the paths of this interpreter and of Slurm, the fabric's variables, and the site's own lines."""
    slurm = Path(shutil.which("sbatch") or "/usr/bin/sbatch").parent
    path = ":".join(dict.fromkeys([str(Path(sys.executable).parent), str(slurm), *BASE_PATH.split(":")]))
    ours = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", "OMP_NUM_THREADS": "1", **SHORT_SPIN}
    ours |= {name: os.environ[name] for name in HANDED_ON if os.environ.get(name)}
    exports = [f"export {name}={shlex.quote(value)}" for name, value in {**ours, **job.where.fabric}.items()]
    lines = "\n".join([*exports, *job.where.environment])
    return _fill(shell.ENVIRONMENT, PATH=shlex.quote(path), EXPORTS=lines, CODE=shlex.quote(str(job.code)))


def _drain(job: Job) -> str:
    """Return the block that tells the ranks of the warning by a file, since signals need not pass srun and torchrun."""
    return _fill(shell.DRAIN, LEAD=job.where.drain_lead_s) if job.where.drain_lead_s else "\nDRAIN=false\n"


def _srun(job: Job) -> str:
    lines = ["srun --export=ALL --kill-on-bad-exit=1" + " --label" * (job.nodes > 1) + _pyxis(job)]
    lines.append(f"  {_python(job)} -m")
    if job.several:
        lines[-1] += f" engine.launch.torchrun --processes={job.where.ranks_per_node} --nodes={job.nodes}"
        lines.append('  --rendezvous="$MASTER_ADDR:$MASTER_PORT" --id="$JOB-$ATTEMPT" --logs="$RUN_DIR/ranks-$ATTEMPT"')
        lines.append(f'  --workspace="$WORKSPACE" --node={shlex.quote(job.node)}')
        lines.append("  ")
    lines[-1] += f" {shlex.join(job.module)}" + " --world" * job.several
    if job.elements:
        lines[-1] += f' --shard="$SLURM_ARRAY_TASK_ID" --shards={job.shards}'
    return " \\\n".join(lines)


def _pyxis(job: Job) -> str:
    box = job.where.container
    if box.kind != "pyxis":
        return ""
    mounts = ",".join([f"{job.root}:{job.root}", *box.mounts])
    options = {"container-image": str(box.image), "container-mounts": mounts, "container-workdir": str(job.root)}
    return "".join(f" \\\n  --{name}={shlex.quote(value)}" for name, value in options.items())


def _python(job: Job) -> str:
    """Return the interpreter: this one, whose environment is on the shared file system, or the container's own."""
    box, root = job.where.container, shlex.quote(str(job.root))
    if box.kind == "none":
        return shlex.quote(sys.executable)
    if box.kind == "pyxis":
        return "python3"
    binds = " ".join(f"--bind {shlex.quote(mount)}" for mount in (f"{job.root}:{job.root}", *box.mounts))
    nv = " --nv" if job.where.gpus_per_node else ""
    return f"apptainer exec{nv} {binds} --pwd {root} {shlex.quote(str(box.image))} python3"


def _end(job: Job) -> str:
    failed = shell.FAILED_OF_SEVERAL if job.several else _fill(shell.FAILED_OF_ONE, DRAINED=DRAINED)
    values = {"BUDGET": job.where.requeue_budget, "EXCHANGE": FOLDER}
    requeue = _fill(shell.REQUEUE, **values) if job.where.drain_lead_s else ""
    return _fill(shell.END, FAILED=failed) + requeue


def _fill(block: str, **values: object) -> str:
    """Return a block with its values filled in."""
    for name, value in values.items():
        block = block.replace(f"@{name}@", str(value))
    return block
