"""Measure the time from a node's dispatch to its job script's first line, beside a plain sbatch on an idle cluster."""

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.report import Row
from engine.launch.compute import ComputeClass
from engine.launch.slurm.interrupts import Detached
from engine.launch.slurm.run import run_job
from engine.launch.slurm.script import Job
from pipelines.stages_file import ROOT
from tests.cluster.harness import Cluster

MOST_SECONDS, PATIENCE_SECONDS = 1.0, 120.0


def rows(repeats: int) -> list[Row]:
    """Return the one row of this part: medians over alternating submissions."""
    ours: list[float] = []
    plain: list[float] = []
    with tempfile.TemporaryDirectory() as folder, Cluster(Path(folder) / "slurm", nodes=1) as cluster:
        os.environ["SLURM_CONF"] = cluster.environment["SLURM_CONF"]
        for n in range(repeats):
            plain.append(_first_line(cluster, Path(folder) / f"plain-{n}", _sbatch))
            ours.append(_first_line(cluster, Path(folder) / f"ours-{n}", _dispatch))
        del os.environ["SLURM_CONF"]
    a, b = statistics.median(ours), statistics.median(plain)
    case = "dispatch of a node to the first line of its job script"
    return [Row(case, a, "s", "plain sbatch", b, "at most 1 s more", a - b <= MOST_SECONDS)]


def _first_line(cluster: Cluster, folder: Path, submit: Callable[[Path, str], None]) -> float:
    """Return the seconds from the submission until the job's shell prints the time, on an idle cluster."""
    folder.mkdir()
    clock = folder / "clock"
    begun = time.time()
    submit(folder, f"date +%s.%N > {clock}.part && mv {clock}.part {clock}")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not clock.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the job of {folder} did not start in {PATIENCE_SECONDS:.0f} s")
        time.sleep(0.05)
    cluster.cancel_all()
    while cluster.jobs():
        time.sleep(0.2)
    return float(clock.read_text()) - begun


def _sbatch(folder: Path, line: str) -> None:
    command = ["sbatch", "--parsable", f"--output={folder}/out", "--time=1", f"--wrap={line}"]
    subprocess.run(command, check=True, capture_output=True)


def _dispatch(folder: Path, line: str) -> None:
    """Do the runner's work for a node, up to the point where it would begin to watch the job."""
    where = ComputeClass(launcher="slurm", time="00:05:00", partition="h800", drain_lead_s=60, environment=(line,))
    job = Job("k2-benchmark", folder / "jobs" / "node", ROOT, ROOT, folder, "node", ("this",), where)
    try:
        run_job(job, prepare=lambda: None, left_error=lambda _: False, say=lambda _: None, detach=True)
    except Detached:
        return
