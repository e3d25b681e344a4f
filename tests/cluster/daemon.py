"""A background process with a name: started, killed, restarted, and found again from other processes."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

SBIN = "/usr/sbin:/sbin"  # where daemons lie; not on everybody's PATH


class Daemon:
    """`command`, kept in the foreground, so that it is a child; ROOT/pid/NAME.json says which process it is."""

    def __init__(
        self, root: Path, name: str, command: Sequence[str | Path], environment: Mapping[str, str] | None = None
    ) -> None:
        self.name, self.command, self.environment = name, [str(word) for word in command], environment or {}
        self._told, self._output = root / "pid" / f"{name}.json", root / "log" / f"{name}.out"
        self._child: subprocess.Popen[bytes] | None = None

    def start(self, lasting: bool = False) -> None:
        """Start the process if it does not run; it dies with the thread that started it, unless it is `lasting`."""
        if self.alive:
            return
        mortal = [] if lasting else ["setpriv", "--pdeathsig", "TERM"]
        path = f"{os.environ.get('PATH', os.defpath)}:{SBIN}"
        with self._output.open("ab") as output:
            self._child = subprocess.Popen(
                [*mortal, *self.command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "PATH": path, **self.environment},
                start_new_session=True,  # Ctrl-C in the terminal is not for it
            )
        process = psutil.Process(self._child.pid)
        self._told.write_text(json.dumps({"pid": process.pid, "born": process.create_time()}))

    @property
    def process(self) -> psutil.Process | None:
        """The process, whichever process started it; None if it has ended (a zombie that is not reaped has)."""
        if self._child is not None:
            self._child.poll()
        try:
            description = json.loads(self._told.read_bytes())
            running = psutil.Process(description["pid"])
            if running.create_time() == description["born"] and running.status() != psutil.STATUS_ZOMBIE:
                return running
        except (FileNotFoundError, psutil.NoSuchProcess):
            pass
        return None

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process is not None

    def stop(self, by: signal.Signals = signal.SIGTERM, patience: float = 20.0) -> None:
        """Send the process a signal and wait until it has ended; SIGKILL after `patience` seconds."""
        if (process := self.process) is None:
            return
        process.send_signal(by)
        deadline = time.monotonic() + patience
        while self.alive:
            if time.monotonic() > deadline:
                process.kill()
            time.sleep(0.02)


def holds(condition: Callable[[], bool], patience: float, every: float = 0.05) -> bool:
    """Return whether `condition` becomes true within `patience` seconds; look `every` so many seconds."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True


def wait_until(
    condition: Callable[[], bool], what: str, log: Path, patience: float = 90.0, every: float = 0.05
) -> None:
    """Wait until `condition` holds; show the end of `log` if it does not."""
    if not holds(condition, patience, every):
        end = log.read_text(errors="replace")[-2000:] if log.exists() else ""
        raise AssertionError(f"{what} did not come up in {patience:.0f} s; {log} ends in:\n{end}")


def missing(commands: Sequence[str]) -> list[str]:
    """Return those of `commands` that this machine lacks."""
    path = f"{os.environ.get('PATH', os.defpath)}:{SBIN}"
    return [command for command in commands if shutil.which(command, path=path) is None]
