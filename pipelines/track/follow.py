"""`--follow -- COMMAND`: run a command, and beside it a follower that brings what its stages do into MLflow.

The wrapper imports nothing heavy and returns the command's own exit status. The follower is a process of low priority
that looks every few seconds until the pipe from the wrapper closes, be it that the command ended or that the wrapper
was killed; then it looks once more and sums up. Whatever becomes of it or of MLflow, the command does not notice.
"""

import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

PAUSED = 130
"""Exit status of a command that Ctrl-C stopped."""
QUIETLY = b"quietly"
"""What the follower reads before its pipe closes if it is not to sum up."""
FAREWELL_SECONDS = 120.0
"""What the last import may take when the command is done."""


def follow_command(command: Sequence[str], follower: Sequence[str], later: str) -> int:
    """Run `command` with `follower` beside it; return the exit status of `command`, as a shell gives it.

    `later` is the command that does what the follower could not.

    Ctrl-C goes to the command alone, which the terminal sends it too; SIGTERM is handed on to it.
    """
    beside = subprocess.Popen(follower, stdin=subprocess.PIPE, start_new_session=True)
    signal.signal(signal.SIGINT, lambda *_: None)  # not SIG_IGN, which the command would inherit
    try:
        child = subprocess.Popen(command)
    except OSError as error:
        print(f"error: {command[0]} cannot be run ({error.strerror}): check the command after --.", file=sys.stderr)
        status = 127
    else:
        signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        status = child.wait()
    _dismiss(beside, later, quietly=status == PAUSED)
    return status if status >= 0 else 128 - status


def _dismiss(follower: "subprocess.Popen[bytes]", later: str, quietly: bool) -> None:
    """Let the follower bring in the rest, for so long; tell if it did not.

    After Ctrl-C `quietly`: the last word is the command's, which says where it stopped.
    """
    assert follower.stdin is not None
    with suppress(BrokenPipeError):
        follower.stdin.write(QUIETLY if quietly else b"")
        follower.stdin.close()
    try:
        status = follower.wait(FAREWELL_SECONDS)
    except subprocess.TimeoutExpired:
        follower.kill()
        follower.wait()
        status = None
    if status != 0:
        why = f"took more than {FAREWELL_SECONDS:.0f} s" if status is None else f"ended with status {status}"
        print(f"warning: the import into MLflow {why}; `{later}` takes it up again.", file=sys.stderr)
