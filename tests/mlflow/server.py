"""A real `mlflow server` on loopback, which may be killed and started again on the same port and database."""

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

from pipelines.track import serve

STARTUP_SECONDS = 180.0


class Server:
    """The server of a database in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start the server; return when it answers."""
        command = [*serve.command(self.port), "--artifacts-destination", str(self.folder / "artifacts")]
        quiet = serve.environment(f"sqlite:///{self.folder}/server.db")
        log = (self.folder / "server.log").open("ab")
        self._process = subprocess.Popen(
            command, env={**os.environ, **quiet}, stdout=log, stderr=log, start_new_session=True
        )
        deadline = time.monotonic() + STARTUP_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
            else:
                return
        raise AssertionError(f"mlflow server does not answer:\n{(self.folder / 'server.log').read_text()[-2000:]}")

    def kill(self) -> None:
        """Send SIGKILL to the server and its workers."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
