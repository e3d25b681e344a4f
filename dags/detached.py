"""A sensor that picks up and publishes stages submitted with `--detach` whose Slurm jobs have ended.

A detached stage leaves its run directory (data/<profile>/.work/<stage>/<key>/jobs/<node>/) with job.json, and the job
leaves exit.json there when it ends. Running the same stage again attaches to the ended job and publishes; so this
sensor requests that run, once for each end of a job. No call to Slurm is needed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from dags.attending import attended_by_driver
from engine.artifacts.files import object_if_sound
from engine.identity.records import BEGUN
from engine.launch.slurm.states import State
from engine.remedy import move_aside
from pipelines import graph
from pipelines.dispatch import JOBS
from pipelines.stages_file import load_stages_file


@dataclass(frozen=True)
class EndedJob:
    """A job that ended while no driver ran its stage."""

    stage: str
    node: str
    key: str
    job: str
    status: int
    ended: str

    @property
    def name(self) -> str:
        """The run request's key: one for each success, but only one failure per stage key, so that none repeats."""
        return f"{self.key}/{self.node}/" + (f"{self.job}/{self.ended}" if self.status == 0 else "failed")

    @property
    def sentence(self) -> str:
        """A sentence on the job's end, for the sensor's log."""
        how = "is done" if self.status == 0 else f"ended with exit status {self.status}"
        return f"stage {self.stage}, node {self.node}: detached job {self.job} {how}"


def ended_jobs(profile: str) -> Iterator[EndedJob]:
    """Yield the ended jobs of stages that no driver runs now (it would hold the stage's lock).

    Only jobs of the stage's latest work count, since a run would not resume the work of other keys, and none that
    Ctrl-C cancelled, since the user who pressed it decides when to go on.
    """
    for stage in load_stages_file().stages:
        works = graph.work_folders(profile, stage)
        if attended_by_driver(profile, stage) or not works:
            continue
        latest = max(works, key=lambda work: str(_json(work / BEGUN).get("started", "")))
        for file in sorted(latest.glob(f"{JOBS}/*/exit.json")):
            job = _json(file.with_name("job.json"))
            if job and job.get("ended") != State.CANCELLED:
                end = _json(file)
                yield EndedJob(
                    stage, file.parent.name, file.parents[2].name, str(job["id"]), int(end["rc"]), str(end.get("end"))
                )


def detached_job_sensor(profile: str, jobs: dict[str, Any]) -> dg.SensorDefinition:
    """Return the sensor that picks ended jobs up; `jobs` maps a stage's name to the job that materialises it."""

    @dg.sensor(
        name="pick_up_detached_jobs",
        jobs=list(jobs.values()),
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Runs a stage again whose detached Slurm job has ended: it attaches and publishes.",
    )
    def pick_up_detached_jobs(context: dg.SensorEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        ended = list(ended_jobs(profile))
        for stage in dict.fromkeys(job.stage for job in ended):
            own = [job for job in ended if job.stage == stage]
            for job in own:
                context.log.info(job.sentence)
            name = ";".join(job.name for job in own)
            tags = {"k2/slurm_job": ",".join(job.job for job in own), "k2/stage": stage}
            yield dg.RunRequest(run_key=name, job_name=jobs[stage].name, tags=tags)
        if not ended:
            yield dg.SkipReason("no detached job has ended")

    return pick_up_detached_jobs


def _json(path: Path) -> dict[str, Any]:
    """Return the JSON object of a small file; {} if the file is missing or damaged."""
    return object_if_sound(path, move_aside(path)) or {}
