"""A process beside the stage that imports Great Expectations while the stage works, and then validates its tables.

    python -m pipelines.gates.beside PARENT

The import takes three seconds of one core. `start` makes the process when a node begins whose tables will be judged;
`validate` sends it a request, or imports Great Expectations here if it was not started. The process reads one JSON line
for each request, replies with one, and ends with its standard input or its parent, whichever ends first.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from engine.errors import UserError
from engine.launch.lifetime import die_with_parent
from pipelines.gates.profile import Statistic
from pipelines.gates.suites import Suite
from pipelines.stages_file import ROOT

QUIET = ("-W", "ignore::RuntimeWarning:runpy")
"""Options against Python's warning that the package has imported this module already."""

_started: "subprocess.Popen[str] | None" = None


def start() -> None:
    """Start the process, unless it runs already."""
    global _started  # noqa: PLW0603 - a process has one beside it, from its first gate to `stop`
    if _started is None:
        _started = subprocess.Popen(
            [sys.executable, *QUIET, "-m", "pipelines.gates.beside", str(os.getpid())],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the stage, which stops it
            text=True,
        )


def stop() -> None:
    """End the process, if there is one."""
    global _started  # noqa: PLW0603 - see `start`
    if _started is not None:
        _started.kill()  # nothing is lost: its replies have been read
        _started.communicate()
        _started = None


def validate(dataset: str, profile: dict[str, Statistic], suite: Suite) -> dict[str, Any]:
    """Return the result of `validation.validate`, from the process beside this one where there is one.

    Raises:
        UserError: the suite has a wrong type of expectation or a wrong argument, or the process has died.

    """
    if _started is None:
        from pipelines.gates.validation import validate as validate_here

        return validate_here(dataset, profile, suite)
    request = {"dataset": dataset, "profile": profile, "suite": asdict(suite)}
    reply = _ask(_started, json.dumps(request) + "\n")
    if "error" in reply:
        raise UserError(reply["error"])
    return dict(reply["result"])


def _ask(process: "subprocess.Popen[str]", line: str) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(line)
        process.stdin.flush()
        reply = process.stdout.readline()
    except BrokenPipeError:
        reply = ""
    if not reply:
        raise UserError(
            f"the process that judges tables ended with status {process.wait()}, so nothing was published: "
            "the same command goes on from what the stage has made."
        )
    return dict(json.loads(reply))


def main() -> None:
    """Import Great Expectations, then answer requests until standard input ends."""
    die_with_parent(int(sys.argv[1]))
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # so that nothing a library prints is read as a reply
    from pipelines.gates import validation

    validation.load()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            result = validation.validate(request["dataset"], request["profile"], Suite(**request["suite"]))
            reply: dict[str, Any] = {"result": result}
        except UserError as error:
            reply = {"error": str(error)}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
