"""slurmdbd and its MariaDB, which sacct queries, in the cluster's directory."""

import os
import signal
import socket
import subprocess
from pathlib import Path

from engine.errors import UserError
from tests.cluster.config import Layout
from tests.cluster.daemon import SBIN, Daemon, missing, wait_until

NEEDED = {"mariadbd": "mariadb-server", "mariadb-install-db": "mariadb-server", "slurmdbd": "slurmdbd"}


class Accounting:
    """The two daemons; they talk through a socket in the directory, and slurmctld through a port."""

    def __init__(self, layout: Layout) -> None:
        self.layout, self.root = layout, layout.root
        self.data, self.socket = self.root / "db" / "data", self.root / "db" / "mysql.sock"
        self.mariadb = Daemon(self.root, "mariadb", self._mariadb())
        environment = {"SLURM_CONF": str(layout.conf), "MYSQL_UNIX_PORT": str(self.socket)}
        self.slurmdbd = Daemon(self.root, "slurmdbd", layout.named(["slurmdbd", "-D"]), environment)

    def start(self, lasting: bool = False) -> None:
        """Start both, on a database made if missing, and make the cluster known to it."""
        packages = sorted({NEEDED[command] for command in missing(list(NEEDED))})
        if packages:
            raise UserError(
                "Slurm's accounting is not on this machine: `apt-get update && apt-get install -y "
                f"--no-install-recommends {' '.join(packages)}` (Debian, Ubuntu)."
            )
        self._prepare()
        self.mariadb.start(lasting)
        wait_until(self._database_answers, "mariadbd", self.root / "log" / "mariadb.log")
        self.slurmdbd.start(lasting)
        wait_until(self._port_answers, "slurmdbd", self.root / "log" / "slurmdbd.log")
        _run("sacctmgr", "-i", "add", "cluster", self.layout.cluster, conf=self.layout.conf)

    def stop(self) -> None:
        """Stop both daemons."""
        self.slurmdbd.stop()
        self.mariadb.stop(signal.SIGTERM, patience=30)

    def _mariadb(self) -> list[str]:
        return [
            *("mariadbd", "--no-defaults", "--user=root", f"--datadir={self.data}", f"--socket={self.socket}"),
            *(f"--pid-file={self.root}/pid/mariadb", f"--log-error={self.root}/log/mariadb.log", "--skip-networking"),
            *("--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900", "--innodb-flush-log-at-trx-commit=0"),
        ]

    def _prepare(self) -> None:
        conf = self.layout.conf.parent / "slurmdbd.conf"
        conf.touch(mode=0o600)  # slurmdbd refuses any other
        conf.write_text(_SLURMDBD.format(layout=self.layout, root=self.root, port=self.layout.port0 + 1))
        if not (self.data / "mysql").exists():
            options = ("--no-defaults", "--user=root", f"--datadir={self.data}", "--skip-test-db")
            _run("mariadb-install-db", *options, "--auth-root-authentication-method=normal", conf=self.layout.conf)

    def _database_answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def _port_answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((self.layout.host[1], self.layout.port0 + 1)) == 0


_SLURMDBD = """\
AuthType=auth/munge
AuthInfo=socket={layout.munge_socket}
DbdHost={layout.host[0]}
DbdAddr={layout.host[1]}
DbdPort={port}
CommunicationParameters=NoInAddrAny
SlurmUser=root
PidFile={root}/pid/slurmdbd
LogFile={root}/log/slurmdbd.log
DebugLevel=info
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct
"""


def _run(*command: str, conf: Path) -> None:
    path = f"{os.environ.get('PATH', os.defpath)}:{SBIN}"
    environment = {**os.environ, "PATH": path, "SLURM_CONF": str(conf)}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)
    if process.returncode and "already exists" not in process.stdout + process.stderr:
        raise AssertionError(f"{' '.join(command)} failed ({process.returncode}): {process.stdout}{process.stderr}")
