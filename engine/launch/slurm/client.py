"""Slurm's own commands. Each under a time limit: where the controller is dead they block for many seconds."""

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.errors import UserError

ASK_SECONDS, SUBMIT_SECONDS = 30.0, 120.0
KEPT_VARIABLES = ("PATH", "HOME", "USER", "LOGNAME", "SLURM_CONF")
"""What sbatch, and with it the job, gets of the environment: with nothing at all (--export=NIL) Slurm would first load
the user's login environment on the node, which takes seconds; SBATCH_… variables would overrule the script's header."""
KEY = "K2_KEY"
"""The variable by which a job knows its own idempotency key."""
_DOWN = re.compile(
    r"unable to contact|connection (refused|timed out)|socket timed out|zero bytes|communication|not responding"
    r"|protocol authentication|munge|try again",
    re.IGNORECASE,
)
"""How Slurm's commands put it that the controller did not answer; anything else is an answer."""
_COMMAND = re.compile(r"^((sbatch|scontrol|squeue|scancel|slurm_\w+):?)?\s*(error:)?\s*")
_PAIR = re.compile(r"(?:^|(?<=\s))([A-Za-z][\w/:]*)=(\S*)")


class Unreachable(Exception):
    """The controller did not answer. Says nothing about any job."""


class Refused(UserError):
    """sbatch's request was refused, in Slurm's own words."""


@dataclass(frozen=True)
class Seen:
    """What Slurm says of a job, or of an element of a job array.

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
    """Submit `script` under the comment `key`; the job's id.

    Raises:
        UserError: there is no sbatch here.
        Refused: Slurm would not have it.
        Unreachable: the controller did not answer; it may have taken the job all the same.

    """
    words = ("--parsable", f"--comment={key}", str(script))
    status, out, error = _run("sbatch", *words, limit=SUBMIT_SECONDS, variables={KEY: key})
    if status:
        if status == TIMED_OUT or _DOWN.search(error):
            raise Unreachable(error)
        raise Refused(f"Slurm refused {script}: {_words(error)} (the class's fields stand in compute.yml).")
    return out.split(";")[0]


def show(job: str) -> list[Seen] | None:
    """What the controller says of a job, one for each element of an array; None: it knows no such job.

    Raises Unreachable where it does not answer.
    """
    status, out, error = _run("scontrol", "show", "job", "-o", job)
    if status == 0:
        return [seen for line in out.splitlines() if line.strip() for seen in parse_show(line)]
    if "Invalid job id" in error:
        return None
    raise Unreachable(_words(error))


def parse_show(line: str) -> list[Seen]:
    """A line of `scontrol show job -o`: one job, or several pending elements of an array."""
    told = dict(_PAIR.findall(line))
    code, signal = _exit(told.get("DerivedExitCode") or told.get("ExitCode", "0:0"))
    seen = Seen(
        state=told["JobState"],
        reason=told.get("Reason", "").replace("None", ""),
        attempt=int(told.get("Restarts", 0)),
        code=code,
        signal=signal,
        nodes=told.get("NodeList", "").replace("(null)", ""),
        comment=told.get("Comment", ""),
    )
    return [Seen(**{**vars(seen), "element": element}) for element in elements(told.get("ArrayTaskId"))]


def elements(told: str | None) -> list[int | None]:
    """The elements that a line is on: `3`, or, while they wait together, `0-2,5%4`; [None] for a plain job.

    >>> elements("0-2,5%4"), elements(None)
    ([0, 1, 2, 5], [None])
    """
    if told is None:
        return [None]
    found: list[int | None] = []
    for part in told.split("%")[0].split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def history(job: str) -> list[Seen]:
    """What the accounting database says of a job's last attempt; nothing where there is none.

    To be asked only after the controller has said that it knows no such job: it lags, and calls a job that waits for
    its next attempt ended.
    """
    fields = "jobid,state,exitcode,derivedexitcode,nodelist,comment"
    status, out, _ = _run("sacct", "-X", "-n", "-P", "-j", job, "-o", fields)
    return [parse_history(line) for line in out.splitlines() if line.count("|") >= 5] if status == 0 else []


def parse_history(line: str) -> Seen:
    """A line of sacct: `123_4|CANCELLED by 0|0:0|7:0|h800-0|key`."""
    job, state, own, derived, nodes, comment = line.split("|", 5)
    name, _, by = state.partition(" by ")
    code, signal = _exit(derived if derived not in {"", "0:0"} else own)
    element = int(job.split("_")[1]) if re.fullmatch(r"\d+_\d+", job) else None
    return Seen(name, code=code, signal=signal, nodes=nodes, element=element, comment=comment, by=by)


def find(key: str) -> list[str]:
    """The jobs that were submitted under the comment `key`, newest last. Raises Unreachable."""
    status, out, error = _run("squeue", "-h", "-r", "-t", "all", "-o", "%F %k")
    if status:
        raise Unreachable(_words(error))
    pairs = [line.split() for line in out.splitlines()]
    return sorted({pair[0] for pair in pairs if pair[1:] == [key]}, key=int)


def cancel(job: str) -> bool:
    """scancel; whether the controller heard it."""
    return _run("scancel", job)[0] == 0


def requeue(job: str) -> str:
    """Have a job begin again, in a new attempt; what Slurm has against it, "" if nothing."""
    status, _, error = _run("scontrol", "requeue", job)
    return _words(error) or f"exit code {status}" if status else ""


TIMED_OUT = 124


def _run(
    command: str, *words: str, limit: float = ASK_SECONDS, variables: Mapping[str, str] | None = None
) -> tuple[int, str, str]:
    """Run one of Slurm's commands; exit code, what it printed, what it complained of."""
    try:
        done = subprocess.run(
            [command, *words],
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
            env={name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ} | dict(variables or {}),
            start_new_session=True,  # Ctrl-C is for the driver alone: sbatch must not die between a job and its id
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
    return done.returncode, done.stdout.strip(), done.stderr.strip()


def _exit(told: str) -> tuple[int, int]:
    code, _, signal = told.partition(":")
    return int(code or 0), int(signal or 0)


def _words(error: str) -> str:
    """Slurm's complaint in one line, without the names of its commands."""
    lines = [_COMMAND.sub("", line).strip() for line in error.splitlines()]
    return "; ".join(line for line in lines if line)
