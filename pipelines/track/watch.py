"""Import what is new: once, or every few seconds until a pipe closes."""

import os
import select
import sys
import time
from typing import IO

from engine.credentials import masked
from engine.remedy import command
from pipelines import gates
from pipelines.track.importer import read_all_records
from pipelines.track.session import Away, Session

EVERY_SECONDS = 5.0
MOST_SECONDS = 60.0
"""The longest wait between two tries while the server is away; each wait is twice the one before."""
LOWEST_PRIORITY = 19


def watch(session: Session, pipe: IO[bytes], every: float = EVERY_SECONDS) -> None:
    """Import what is new every `every` seconds until `pipe` closes.

    A server that is away is reported once, tried again after longer and longer waits, and reported when it is back.
    """
    os.setpriority(os.PRIO_PROCESS, 0, LOWEST_PRIORITY)
    wait, away = every, False
    while not _closed(pipe, wait):
        try:
            session.take_up()
        except Away as error:
            wait = min(2 * wait, MOST_SECONDS)
            if not away:
                say(f"warning: MLflow at {session.uri} is away ({error}); what is missing arrives when it is back.")
            away = True
        else:
            if away:
                say(f"mlflow: {session.uri} is back at {time.strftime('%H:%M:%S')}")
            wait, away = every, False
            if session.written or session.points:
                gates.start()  # the alias gates of the last pass will need Great Expectations


def _closed(pipe: IO[bytes], seconds: float) -> bool:
    """Wait `seconds`, or until the other end of the pipe is closed; return whether it is."""
    ready, _, _ = select.select([pipe], [], [], seconds)
    return bool(ready)


def say(line: str) -> None:
    """Print one line to standard error, at once, with passwords masked."""
    print(masked(line), file=sys.stderr, flush=True)


def sum_up(session: Session, quietly: bool = False) -> bool:
    """Make a session's last pass and print a summary (`quietly`: warnings only); return whether all was imported."""
    records = len(read_all_records(session.profile))
    if not records and not quietly:
        say(f"mlflow: profile {session.profile} has no run records yet")
    try:
        session.take_up()
        verdicts = session.promote()
    except Away as error:
        say(
            f"warning: MLflow at {session.uri} could not take the run records ({error}); they stay in "
            f"data/{session.profile}/.runs, and `{command('compare', session.profile)}` imports them."
        )
        return False
    lines = [verdict.sentence for verdict in verdicts]
    if session.restored:
        lines.insert(0, f"the experiment {session.restored} had been deleted there and is restored, with what it held")
    summary = f"{session.written} of {records} stage runs of profile {session.profile} imported into {session.uri}"
    for line in (*lines, summary) if records and not quietly else ():
        say(f"mlflow: {line}")
    return True
