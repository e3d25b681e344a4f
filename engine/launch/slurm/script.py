"""The sbatch file of a node: a header that a person may change, then what runs on the job's first node.

It can be submitted by hand as well. In order: clear what an earlier attempt left, meet, check the machines, run the
ranks, and say in exit.json how they ended. A job that was asked to end in time has itself requeued.
"""

import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from engine.launch.compute import ComputeClass
from engine.launch.drain import RUN_DIR
from engine.launch.slurm.states import HEALTH

BASE_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"


@dataclass(frozen=True)
class Job:
    """What is submitted.

    `module` and its arguments are what every rank runs; `world` says whether there may be several, which then find
    each other through torchrun. `elements` are the shards, of `shards`, that a job array makes; () for a plain job.
    """

    name: str
    directory: Path
    root: Path
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
        """Whether it runs under torchrun."""
        return self.world and self.where.ranks > 1

    @property
    def nodes(self) -> int:
        """How many nodes it asks for."""
        return self.where.nodes if self.world else 1


def render(job: Job) -> str:
    """The sbatch file."""
    parts = [_header(job), _begin(job), _site(job), _meet(job), _health(job), _drain(job), _work(job), _end(job)]
    return "\n".join(part for part in parts if part)


def _header(job: Job) -> str:
    where = job.where
    gpu = "gpu:" + (f"{where.gres_type}:" if where.gres_type else "")
    options: dict[str, object] = {
        "job-name": job.name,
        "partition": where.partition,
        "account": where.account,
        "qos": where.qos,
        "nodes": job.nodes,
        "ntasks-per-node": 1,
        "gres": f"{gpu}{where.gpus_per_node}" if where.gpus_per_node else None,
        "cpus-per-task": where.cpus_per_task,
        "mem": where.mem,
        "exclusive": where.exclusive,
        "wait-all-nodes": 1 if job.nodes > 1 else None,
        "time": where.time,
        "signal": f"B:USR1@{where.drain_lead_s}" if where.drain_lead_s else None,
        "array": ",".join(map(str, job.elements)) or None,
        "exclude": ",".join((*where.exclude, *job.exclude)) or None,
        "requeue": True,
        "open-mode": "append",
        "export": "NIL",
        "chdir": job.root,
        "output": job.directory / ("slurm-%A_%a.out" if job.elements else "slurm-%j.out"),
    }
    lines = [f"#SBATCH --{name}" + ("" if value is True else f"={value}") for name, value in options.items() if value]
    return (
        "#!/bin/bash\n" + "\n".join(lines) + "\n\nset -uo pipefail  # not -e: what the ranks end with is handled below"
    )


def _begin(job: Job) -> str:
    own = f"{shlex.quote(str(job.directory))}" + ("/element-$SLURM_ARRAY_TASK_ID" if job.elements else "")
    name = "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" if job.elements else "$SLURM_JOB_ID"
    return f"""
RUN_DIR={own}
WORKSPACE={shlex.quote(str(job.workspace))}
JOB={name}
ATTEMPT=${{SLURM_RESTART_COUNT:-0}}
mkdir -p "$RUN_DIR"
rm -f "$RUN_DIR"/exit.json "$RUN_DIR"/drain "$RUN_DIR"/DONE "$RUN_DIR"/failed "$RUN_DIR"/heartbeat
echo "{{\\"job\\": \\"$JOB\\", \\"attempt\\": $ATTEMPT, \\"begun\\": $(date +%s), \\"nodes\\": \\"$SLURM_JOB_NODELIST\\"}}" >> "$RUN_DIR/attempts.jsonl"
echo "job $JOB, attempt $ATTEMPT, on $SLURM_JOB_NODELIST, $(date -Is)\""""


def _site(job: Job) -> str:
    slurm = Path(shutil.which("sbatch") or "/usr/bin/sbatch").parent
    path = f"{Path(sys.executable).parent}:{slurm}:{BASE_PATH}"
    variables = {
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "OMP_NUM_THREADS": "1",
        "GOMP_SPINCOUNT": "10000",
        **job.where.fabric,
    }
    return "\n".join(
        [
            "\n# ---- environment: nothing of the submitter's own comes along (--export=NIL)",
            f"export PATH={shlex.quote(path)}",
            'export HOME=${HOME:-$(getent passwd "$(id -u)" | cut -d: -f6)}',
            "export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}  # srun does not take it from sbatch",
            f'export {RUN_DIR}="$RUN_DIR"',
            *(f"export {name}={shlex.quote(value)}" for name, value in variables.items()),
            *job.where.environment,
        ]
    )


def _meet(job: Job) -> str:
    if not job.several:
        return ""
    return """
# ---- where the ranks meet; a node whose name does not resolve is called by its address
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
getent hosts "$MASTER_ADDR" > /dev/null ||
  MASTER_ADDR=$(scontrol show node "$MASTER_ADDR" -o | grep -o 'NodeAddr=[^ ]*' | cut -d= -f2)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))"""


def _health(job: Job) -> str:
    """One task a node, before anything expensive; only where there are GPUs that can be asked."""
    gpus = job.where.gpus_per_node
    if not gpus:
        return ""
    return f"""
# ---- are the machines fit? One that is not is named in bad-nodes, and the next job leaves it out
if command -v nvidia-smi > /dev/null; then
  srun --export=ALL --label --kill-on-bad-exit=0 bash -c '
    bad() {{ echo "BAD $SLURMD_NODENAME: $1"; echo "$SLURMD_NODENAME" >> "{RUN_DIR_IN_SHELL}/bad-nodes"; exit {HEALTH}; }}
    [ "$(nvidia-smi -L | wc -l)" = {gpus} ] || bad "not {gpus} GPUs"
    nvidia-smi --query-gpu=ecc.errors.uncorrected.volatile.total --format=csv,noheader | grep -q "^[1-9]" && bad "ECC errors"
    for port in /sys/class/infiniband/mlx5_*/ports/1/state; do [ ! -e "$port" ] || grep -q ACTIVE "$port" || bad "$port"; done
    [ "$(df --output=avail -BG /dev/shm | tail -n 1 | tr -dc 0-9)" -ge 1 ] || bad "/dev/shm is full"'
  healthy=$?
else
  healthy=0
fi"""


RUN_DIR_IN_SHELL = f"${RUN_DIR}"


def _drain(job: Job) -> str:
    """Slurm's warning reaches the ranks as a file: it need not know where they are, nor go through srun and torchrun."""
    if not job.where.drain_lead_s:
        return "\nDRAIN=0"
    return """
# ---- asked to end soon: the ranks look for this file and leave a checkpoint
DRAIN=0
trap 'DRAIN=1; touch "$RUN_DIR/drain"; echo "job $JOB: asked to end soon"' USR1"""


def _work(job: Job) -> str:
    words = " ".join(shlex.quote(word) for word in job.module)
    if job.elements:
        words += f' --shard="$SLURM_ARRAY_TASK_ID" --shards={job.shards}'
    if job.several:
        start = [
            f"--processes={job.where.ranks_per_node} --nodes={job.nodes}",
            '--rendezvous="$MASTER_ADDR:$MASTER_PORT" --id="$JOB-$ATTEMPT"',
            f'--workspace="$WORKSPACE" --node={shlex.quote(job.node)} --logs="$RUN_DIR/ranks-$ATTEMPT"',
        ]
        words = f"engine.launch.torchrun {' '.join(start)} \\\n    {words} --world"
    label = " --label" if job.nodes > 1 else ""
    srun = f"srun --export=ALL --kill-on-bad-exit=1{label}{_pyxis(job)} {_inside(job)} -m {words} &"
    check = "if [ $healthy = 0 ]; then\n" if job.where.gpus_per_node else ""
    otherwise = f"\nelse\n  RC={HEALTH}\nfi" if check else ""
    return f"""
# ---- the ranks, in the background: a shell that waits hears signals
{check}{srun}
RANKS=$!
while :; do wait "$RANKS"; RC=$?; kill -0 "$RANKS" 2> /dev/null || break; done{otherwise}"""


def _pyxis(job: Job) -> str:
    box = job.where.container
    if box.kind != "pyxis":
        return ""
    mounts = ",".join([f"{job.root}:{job.root}", *box.mounts])
    inside = f"--container-workdir={shlex.quote(str(job.root))}"
    return f" --container-image={shlex.quote(str(box.image))} --container-mounts={shlex.quote(mounts)} {inside}"


def _inside(job: Job) -> str:
    """The interpreter: this one, whose environment lies on the shared file system, or the container's own."""
    box = job.where.container
    if box.kind == "none":
        return shlex.quote(sys.executable)
    if box.kind == "pyxis":
        return "python3"
    binds = " ".join(f"--bind {shlex.quote(mount)}" for mount in (f"{job.root}:{job.root}", *box.mounts))
    nv = " --nv" if job.where.gpus_per_node else ""
    return f"apptainer exec{nv} {binds} --pwd {shlex.quote(str(job.root))} {shlex.quote(str(box.image))} python3"


def _end(job: Job) -> str:
    return f"""
# ---- how it ended. Whether the work itself failed: ranks that are several say so in `failed`, one by its exit code
DONE=false; [ -e "$RUN_DIR/DONE" ] && DONE=true
FAILED=false
{'[ -e "$RUN_DIR/failed" ] && FAILED=true' if job.several else f"[ $RC -gt 0 ] && [ $RC -lt 128 ] && [ $RC != {HEALTH} ] && FAILED=true"}
printf '{{"job": "%s", "attempt": %d, "rc": %d, "drain": %s, "done": %s, "failed": %s, "ended": %d}}\\n' "$JOB" "$ATTEMPT" "$RC" \\
  "$([ $DRAIN = 1 ] && echo true || echo false)" "$DONE" "$FAILED" "$(date +%s)" > "$RUN_DIR/.exit.json" &&
  mv "$RUN_DIR/.exit.json" "$RUN_DIR/exit.json" && cat "$RUN_DIR/exit.json" >> "$RUN_DIR/attempts.jsonl"

# ---- drained: once more, {job.where.requeue_budget} times in a row without a new checkpoint at most; never a job that is being ended
MARK=$(find "$WORKSPACE" -path '*/checkpoints/*/meta.json' -printf '%T@ %P\\n' -o -name '*.parquet' -printf '%T@ %P\\n' | sort -n | tail -n 1)
SPENT=$(cat "$RUN_DIR/spent" 2> /dev/null || echo 0)
[ "$MARK" = "$(cat "$RUN_DIR/mark" 2> /dev/null)" ] && SPENT=$((SPENT + 1)) || SPENT=0
if [ $DRAIN = 1 ] && [ $RC != 0 ] && [ $DONE = false ] && [ $FAILED = false ] && [ $SPENT -le {job.where.requeue_budget} ] &&
  scontrol show job -o "$JOB" | grep -q ' JobState=RUNNING '; then
  echo "$MARK" > "$RUN_DIR/mark"
  echo "$SPENT" > "$RUN_DIR/spent"
  echo "job $JOB: requeued, to go on from its last checkpoint"
  scontrol requeue "$JOB" && sleep 300
fi
exit $RC
"""
