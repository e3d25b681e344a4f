"""Watch a job until it has ended: ask Slurm now and then, and follow the log all the time.

The controller is asked in the background, because its commands block when it is dead; if it does not answer, that says
nothing about the job.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from engine.launch.compute import ComputeClass
from engine.launch.slurm import client
from engine.launch.slurm.interrupts import Detached, Interrupts
from engine.launch.slurm.logs import Tail
from engine.launch.slurm.pulse import Pulse
from engine.launch.slurm.rundir import RunDirectory, Submitted
from engine.launch.slurm.states import MAY_NEVER_START, UNDER_WAY, JobVerdict, State, judge

TICK_SECONDS = 0.2
FIRST_POLL_SECONDS, POLL_SECONDS, QUEUED_POLL_SECONDS = 0.5, 2.0, 15.0
LOST_AFTER_SECONDS = 60.0
"""Longer than a controller takes to restart."""

Ends = dict[int | None, JobVerdict]


class Watch:
    """The watch over one submission; `again` says that an earlier driver has already shown its beginning."""

    def __init__(
        self,
        job: Submitted,
        directory: RunDirectory,
        where: ComputeClass,
        say: Callable[[str], None],
        interrupts: Interrupts,
        again: bool = False,
        lost_after: float = LOST_AFTER_SECONDS,
    ) -> None:
        self.job, self.directory, self.say, self.interrupts = job, directory, say, interrupts
        self.lost_after = lost_after
        self.cancelled = False
        self.verdicts: Ends = dict.fromkeys(job.elements or (None,), JobVerdict(State.QUEUED))
        self._lines: dict[int | None, str] = {}
        self._tails = {element: self._tail(element, not again) for element in self.verdicts}
        self._pulses = {
            element: Pulse(directory, job.id, element, where.heartbeat_stale_s) for element in self.verdicts
        }
        self._unknown_since: dict[int | None, float] = {}
        self._silent = False
        self._wait = FIRST_POLL_SECONDS

    def run(self) -> Ends:
        """Watch until every element has ended; return how each did. Raises Detached if the driver was told to leave."""
        due, answer = time.monotonic(), None
        while any(verdict.state in UNDER_WAY for verdict in self.verdicts.values()):
            self._heed_interrupts()
            if answer is None and time.monotonic() >= due:
                answer = _in_background(self._ask)
            if answer and answer.done():
                self._hear(answer)
                answer, due = None, time.monotonic() + self._pause()
            for tail in self._tails.values():
                tail.pump()
            time.sleep(TICK_SECONDS)
        time.sleep(TICK_SECONDS)  # the last lines of a log come behind the state on some file systems
        for tail in self._tails.values():
            tail.pump(all_of_it=True)
        return self.verdicts

    def _ask(self) -> dict[int | None, client.JobStatus]:
        """Return Slurm's report on each element: the controller's, or the database's if it forgot the job."""
        here = [status for status in client.show(self.job.id) or [] if status.comment == self.job.key]
        known = {status.element: status for status in here}
        if not set(self.verdicts) <= set(known):
            past = {
                status.element: status for status in client.history(self.job.id) if status.comment in {"", self.job.key}
            }
            known = {**past, **known}
        return known

    def _hear(self, answer: "Future[dict[int | None, client.JobStatus]]") -> None:
        try:
            known = answer.result()
        except client.Unreachable as error:
            if not self._silent:
                self.say(f"Slurm's controller does not answer ({error}): the job is not touched by that")
            self._silent = True
            return
        if self._silent:
            self.say("Slurm's controller answers again")
        self._silent = False
        for element in self.verdicts:
            self._judge(element, known.get(element))

    def _judge(self, element: int | None, status: client.JobStatus | None) -> None:
        if self.verdicts[element].state not in UNDER_WAY:
            return
        verdict = judge(status, self.directory.exit(self.job.id, element))
        if self._too_early(element, status, verdict):
            return
        self.verdicts[element] = verdict
        self._report(element, status, verdict)
        if status and status.state == "RUNNING":  # not SUSPENDED, for example
            self._feel_pulse(element, status)

    def _too_early(self, element: int | None, status: client.JobStatus | None, verdict: JobVerdict) -> bool:
        """Return whether an end must be confirmed: a job known to nobody, or a success without a visible exit.json."""
        no_exit = status is not None and status.state == "COMPLETED" and verdict.state is State.FAILED_APP
        if verdict.state is not State.LOST and not no_exit:
            self._unknown_since.pop(element, None)
            return False
        since = self._unknown_since.setdefault(element, time.monotonic())
        return time.monotonic() - since < (self.lost_after if verdict.state is State.LOST else min(self.lost_after, 10))

    def _report(self, element: int | None, status: client.JobStatus | None, verdict: JobVerdict) -> None:
        """Print a line if something has changed."""
        attempt = f", attempt {status.attempt}" if status and status.attempt else ""
        nodes = f" on {status.nodes}" if status and status.nodes and verdict.state is State.RUNNING else ""
        why = f" ({verdict.why})" if verdict.why else ""
        line = f"job {self._name(element)} {verdict.state}{nodes}{attempt}{why}"
        if line == self._lines.get(element):
            return
        self._lines[element] = line
        self.say(line)
        if verdict.state is State.QUEUED and verdict.why.split(",")[0] in MAY_NEVER_START:
            self.say(
                f"warning: job {self._name(element)} may never start: Slurm says {verdict.why}; it keeps waiting. "
                "Ctrl-C cancels it, its requests are in compute.yml."
            )

    def _feel_pulse(self, element: int | None, status: client.JobStatus) -> None:
        silent = self._pulses[element].silent_for(status.attempt)
        if silent is None:
            return
        self.say(f"warning: job {self._name(element)} has given no sign of life for {silent:.0f} s: it is requeued")
        if complaint := client.requeue(self._name(element)):
            self.say(f"warning: job {self._name(element)} could not be requeued: {complaint}")

    def _heed_interrupts(self) -> None:
        if self.interrupts.terminated:
            raise self.detached("SIGTERM")
        if self.interrupts.presses > 1:
            raise self.detached("a second Ctrl-C")
        if self.interrupts.presses and not self.cancelled:
            self.cancelled = True
            self.say(f"Ctrl-C: job {self.job.id} is being cancelled; Ctrl-C again leaves at once")
            if not client.cancel(self.job.id):
                self.say(f"job {self.job.id} could not be cancelled, the controller does not answer")

    def detached(self, why: str) -> Detached:
        """Return the error of a driver that leaves."""
        return Detached(
            f"job {self.job.id} is left to itself ({why}): its run directory is {self.directory.path}, and the same "
            "command attaches to it again."
        )

    def _pause(self) -> float:
        """Return the time until the next poll, which grows while the job waits in the queue."""
        states = {verdict.state for verdict in self.verdicts.values()}
        if State.RUNNING in states or State.ENDING in states or self.cancelled:
            self._wait = POLL_SECONDS / 2
        else:
            self._wait = min(self._wait * 1.3, QUEUED_POLL_SECONDS)
        return self._wait

    def _name(self, element: int | None) -> str:
        return self.job.id if element is None else f"{self.job.id}_{element}"

    def _tail(self, element: int | None, from_start: bool) -> Tail:
        prefix = "" if element is None else f"[{element}] "
        return Tail(self.directory.log(self.job.id, element), prefix, from_start)


def _in_background(
    ask: Callable[[], dict[int | None, client.JobStatus]],
) -> "Future[dict[int | None, client.JobStatus]]":
    """Call a function in a thread that nobody waits for."""
    future: Future[dict[int | None, client.JobStatus]] = Future()

    def run() -> None:
        try:
            future.set_result(ask())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
