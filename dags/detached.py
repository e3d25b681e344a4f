"""Stages that somebody submitted with `--detach` and whose Slurm jobs have ended since: picked up and published.

A detached stage leaves its run directory (data/<profile>/.work/<stage>/<key>/jobs/<node>/) with job.json, and the job
leaves exit.json there when it ends. Running the same stage again attaches to the ended job and publishes; so this
sensor asks for that run, once for each end of a job. No call to Slurm is needed.
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
    """A job that ended while nobody attended it."""

    stage: str
    node: str
    key: str
    job: str
    status: int
    ended: str

    @property
    def name(self) -> str:
        """What a run is requested for once: each success, but one failure a stage key, so none is chased for ever."""
        return f"{self.key}/{self.node}/" + (f"{self.job}/{self.ended}" if self.status == 0 else "failed")

    @property
    def sentence(self) -> str:
        """What happened, for the sensor's log."""
        how = "is done" if self.status == 0 else f"ended with exit status {self.status}"
        return f"stage {self.stage}, node {self.node}: detached job {self.job} {how}"


def ended_jobs(profile: str) -> Iterator[EndedJob]:
    """The ended jobs of stages that no driver attends now (it would hold the stage's lock).

    Only those of the work that was begun last: a run of the stage would not go on with what other keys have left. And
    none that Ctrl-C cancelled: whoever pressed it goes on when they like.
    """
    for stage in load_stages_file().stages:
        works = graph.work_folders(profile, stage)
        if attended_by_driver(profile, stage) or not works:
            continue
        latest = max(works, key=lambda work: str(_json(work / BEGUN).get("started", "")))
        for told in sorted(latest.glob(f"{JOBS}/*/exit.json")):
            job = _json(told.with_name("job.json"))
            if job and job.get("ended") != State.CANCELLED:
                end = _json(told)
                yield EndedJob(
                    stage, told.parent.name, told.parents[2].name, str(job["id"]), int(end["rc"]), str(end.get("end"))
                )


def detached_job_sensor(profile: str, jobs: dict[str, Any]) -> dg.SensorDefinition:
    """The sensor that picks ended jobs up; `jobs` has the job that materialises one stage by the stage's name."""

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
            mine = [job for job in ended if job.stage == stage]
            for job in mine:
                context.log.info(job.sentence)
            name = ";".join(job.name for job in mine)
            tags = {"k2/slurm_job": ",".join(job.job for job in mine), "k2/stage": stage}
            yield dg.RunRequest(run_key=name, job_name=jobs[stage].name, tags=tags)
        if not ended:
            yield dg.SkipReason("no detached job has ended")

    return pick_up_detached_jobs


def _json(path: Path) -> dict[str, Any]:
    """A small file that is replaced whole; {} if it is not there, or damaged."""
    return object_if_sound(path, move_aside(path)) or {}
