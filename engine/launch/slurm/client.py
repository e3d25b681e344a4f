"""Slurm's own commands, each with a time limit, because they block for many seconds when the controller is dead."""

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.errors import UserError

ASK_SECONDS, SUBMIT_SECONDS = 30.0, 120.0
KEPT_VARIABLES = ("PATH", "HOME", "USER", "LOGNAME", "SLURM_CONF")
"""The environment variables for sbatch, and so for the job: with none at all (--export=NIL) Slurm would first load the
user's login environment on the node, which takes seconds; SBATCH_… variables would override the script's header."""
KEY = "K2_KEY"
"""The variable with a job's own idempotency key."""
_DOWN = re.compile(
    r"unable to contact|connection (refused|timed out)|socket timed out|zero bytes|communication|not responding"
    r"|protocol authentication|munge|try again",
    re.IGNORECASE,
)
"""Messages of Slurm's commands when the controller did not answer; any other message is an answer."""
_COMMAND = re.compile(r"^((sbatch|scontrol|squeue|scancel|slurm_\w+):?)?\s*(error:)?\s*")
_PAIR = re.compile(r"(?:^|(?<=\s))([A-Za-z][\w/:]*)=(\S*)")


class Unreachable(Exception):
    """The controller did not answer, which says nothing about any job."""


class Refused(UserError):
    """sbatch's request was refused; the message is Slurm's."""


@dataclass(frozen=True)
class JobStatus:
    """What Slurm reports about a job, or about an element of a job array.

    `attempt` counts from 0, Slurm's Restarts; `signal` and `code` are those of ExitCode or DerivedExitCode.
    """

    state: str
    reason: str = ""
    attempt: int = 0
    code: int = 0
    signal: int = 0
    nodes: str = ""
    element: int | None = None
    comment: str = ""
    by: str = ""


def sbatch(script: Path, key: str) -> str:
    """Submit `script` under the comment `key`; return the job's id.

    Raises:
        UserError: there is no sbatch here.
        Refused: Slurm refused the job.
        Unreachable: the controller did not answer; it may have accepted the job nevertheless.

    """
    words = ("--parsable", f"--comment={key}", str(script))
    status, out, error = _run("sbatch", *words, limit=SUBMIT_SECONDS, variables={KEY: key})
    if status:
        if status == TIMED_OUT or _DOWN.search(error):
            raise Unreachable(error)
        raise Refused(f"Slurm refused {script}: {_words(error)} (the class's fields are in compute.yml).")
    return out.split(";")[0]


def show(job: str) -> list[JobStatus] | None:
    """Return the controller's report on a job, one for each element of an array; None if it knows no such job.

    Raises Unreachable if the controller does not answer.
    """
    status, out, error = _run("scontrol", "show", "job", "-o", job)
    if status == 0:
        return [report for line in out.splitlines() if line.strip() for report in parse_show(line)]
    if "Invalid job id" in error:
        return None
    raise Unreachable(_words(error))


def parse_show(line: str) -> list[JobStatus]:
    """Parse a line of `scontrol show job -o`: one job, or several pending elements of an array."""
    fields = dict(_PAIR.findall(line))
    code, signal = _exit(fields.get("DerivedExitCode") or fields.get("ExitCode", "0:0"))
    status = JobStatus(
        state=fields["JobState"],
        reason=fields.get("Reason", "").replace("None", ""),
        attempt=int(fields.get("Restarts", 0)),
        code=code,
        signal=signal,
        nodes=fields.get("NodeList", "").replace("(null)", ""),
        comment=fields.get("Comment", ""),
    )
    return [JobStatus(**{**vars(status), "element": element}) for element in elements(fields.get("ArrayTaskId"))]


def elements(text: str | None) -> list[int | None]:
    """Return the elements that a line is about: `3`, or, while they wait together, `0-2,5%4`; [None] for a plain job.

    >>> elements("0-2,5%4"), elements(None)
    ([0, 1, 2, 5], [None])
    """
    if text is None:
        return [None]
    numbers: list[int | None] = []
    for part in text.split("%")[0].split(","):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


def history(job: str) -> list[JobStatus]:
    """Return the accounting database's report on a job's last attempt; an empty list if there is no database.

    Call it only after the controller has said that it knows no such job: the database lags behind, and reports a job
    that waits for its next attempt as ended.
    """
    fields = "jobid,state,exitcode,derivedexitcode,nodelist,comment"
    status, out, _ = _run("sacct", "-X", "-n", "-P", "-j", job, "-o", fields)
    return [parse_history(line) for line in out.splitlines() if line.count("|") >= 5] if status == 0 else []


def parse_history(line: str) -> JobStatus:
    """Parse a line of sacct: `123_4|CANCELLED by 0|0:0|7:0|h800-0|key`."""
    job, state, own, derived, nodes, comment = line.split("|", 5)
    name, _, by = state.partition(" by ")
    code, signal = _exit(derived if derived not in {"", "0:0"} else own)
    element = int(job.split("_")[1]) if re.fullmatch(r"\d+_\d+", job) else None
    return JobStatus(name, code=code, signal=signal, nodes=nodes, element=element, comment=comment, by=by)


def find(key: str) -> list[str]:
    """Return the jobs that were submitted under the comment `key`, newest last. Raises Unreachable."""
    status, out, error = _run("squeue", "-h", "-r", "-t", "all", "-o", "%F %k")
    if status:
        raise Unreachable(_words(error))
    pairs = [line.split() for line in out.splitlines()]
    return sorted({pair[0] for pair in pairs if pair[1:] == [key]}, key=int)


def cancel(job: str) -> bool:
    """Cancel a job; return whether the controller answered."""
    return _run("scancel", job)[0] == 0


def requeue(job: str) -> str:
    """Make a job begin again, in a new attempt; return Slurm's complaint, "" if there is none."""
    status, _, error = _run("scontrol", "requeue", job)
    return _words(error) or f"exit code {status}" if status else ""


TIMED_OUT = 124


def _run(
    command: str, *words: str, limit: float = ASK_SECONDS, variables: Mapping[str, str] | None = None
) -> tuple[int, str, str]:
    """Run one of Slurm's commands; return exit code, standard output and standard error."""
    try:
        result = subprocess.run(
            [command, *words],
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
            env={name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ} | dict(variables or {}),
            start_new_session=True,  # Ctrl-C is only for the driver: sbatch must not die between a job and its id
        )
    except FileNotFoundError:
        if command == "sacct":
            return 1, "", "no sacct"
        raise UserError(
            f"there is no `{command}` on PATH, and compute.yml has launcher: slurm: run this on a machine that submits "
            "to the cluster, or choose launcher: local."
        ) from None
    except subprocess.TimeoutExpired:
        return TIMED_OUT, "", f"{command} got no answer in {limit:.0f} s"
    return result.returncode, result.stdout.strip(), result.stderr.strip()


def _exit(text: str) -> tuple[int, int]:
    code, _, signal = text.partition(":")
    return int(code or 0), int(signal or 0)


def _words(error: str) -> str:
    """Return Slurm's complaint in one line, without the names of its commands."""
    lines = [_COMMAND.sub("", line).strip() for line in error.splitlines()]
    return "; ".join(line for line in lines if line)
