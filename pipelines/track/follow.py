"""`--follow -- COMMAND`: run a command, and beside it a follower that imports its stages' progress into MLflow.

The wrapper imports nothing heavy and returns the command's own exit status. The follower is a process of low priority
that imports every few seconds until the pipe from the wrapper closes, because the command has ended or the wrapper was
killed; then it imports once more and prints a summary. Failures of the follower or of MLflow never reach the command.
"""

import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

PAUSED = 130
"""Exit status of a command that Ctrl-C stopped."""
QUIETLY = b"quietly"
"""The word that tells the follower, before its pipe closes, to print no summary."""
FAREWELL_SECONDS = 120.0
"""The most time for the last import after the command has ended."""


def follow_command(command: Sequence[str], follower: Sequence[str], later: str) -> int:
    """Run `command` with `follower` beside it; return the exit status of `command`, as a shell gives it.

    `later` is the command that repeats the import if the follower fails.

    Ctrl-C is left to the command, which receives it from the terminal; SIGTERM is passed on to the command.
    """
    watcher = subprocess.Popen(follower, stdin=subprocess.PIPE, start_new_session=True)
    signal.signal(signal.SIGINT, lambda *_: None)  # not SIG_IGN, which the command would inherit
    try:
        child = subprocess.Popen(command)
    except OSError as error:
        print(f"error: {command[0]} cannot be run ({error.strerror}): check the command after --.", file=sys.stderr)
        status = 127
    else:
        signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        status = child.wait()
    _dismiss(watcher, later, quietly=status == PAUSED)
    return status if status >= 0 else 128 - status


def _dismiss(follower: "subprocess.Popen[bytes]", later: str, quietly: bool) -> None:
    """Let the follower finish within FAREWELL_SECONDS, and warn if it does not.

    It finishes `quietly` after Ctrl-C: the command prints the last line, which says where it stopped.
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
        problem = f"took more than {FAREWELL_SECONDS:.0f} s" if status is None else f"ended with status {status}"
        print(f"warning: the import into MLflow {problem}; `{later}` repeats it.", file=sys.stderr)
