"""A real Slurm cluster in a directory: munged, slurmctld and a slurmd for each node, nothing in /etc.

    with Cluster(tmp_path) as cluster:
        subprocess.run(["sbatch", ...], env=cluster.environment)

Everything that it started, jobs too, is gone when the block is left.
"""

import os
import random
import re
import shutil
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path
from types import TracebackType

import psutil

from engine.errors import UserError
from tests.cluster import config
from tests.cluster.accounting import Accounting
from tests.cluster.daemon import Daemon, holds, missing, wait_until

NEEDED = {"munged": "munge", "slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client"}
INSTALL = "apt-get update && apt-get install -y --no-install-recommends"

ASK_SECONDS = 0.2  # between two questions to Slurm: each is a process, and other tests want the processors
SAVED_AFTER_CHANGES = 9  # changes, 20 seconds apart, of which slurmctld saves at least one
ROOT_LETTERS = 68  # in a socket's path, of 107 letters at most, more follow


class Cluster:
    """A Slurm cluster below `root`: its nodes are h800-0, h800-1, … with 8 H800 each, its partitions h800 and urgent.

    A job in `urgent` preempts those in `h800`, which are requeued.

    Args:
        root: directory of the cluster; made if missing. A stopped cluster starts again with its jobs.
        nodes: number of nodes.
        port0: first of 200 ports that it uses; by default those it had before, else some that are free.
        accounting: with MariaDB and slurmdbd, so that sacct works.

    Raises:
        UserError: a package or a privilege is missing.

    """

    def __init__(self, root: Path, nodes: int = 3, port0: int | None = None, accounting: bool = False) -> None:
        self.layout = self.layout_class(root.resolve(), nodes, port0 or ports_of(root) or free_ports(), accounting)
        self.root = self.layout.root
        self.environment = {**os.environ, "SLURM_CONF": str(self.layout.conf)}
        self.munged, self.controller = self._munged(), self._daemon("slurmctld", self.layout.named(["slurmctld", "-D"]))
        self.nodes = {name: self.make_node(name) for name in self.layout.names}
        self.database = Accounting(self.layout) if accounting else None

    layout_class = config.Layout

    def __enter__(self) -> "Cluster":
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, lasting: bool = False) -> None:
        """Start what does not run yet and wait until every node is idle.

        Args:
            lasting: it goes on when this process ends; else it dies with it.

        """
        self.check()
        self._prepare()
        self.munged.start(lasting)
        wait_until(self.layout.munge_socket.exists, "munged", self.root / "log" / "munged.out")
        if self.database:
            self.database.start(lasting)
        self._start_controller(lasting)
        for node in self.nodes.values():
            node.start(lasting)
        self.wait_for_nodes(list(self.nodes))

    def check(self) -> None:
        """Raise UserError where a package or a privilege that the cluster needs is missing."""
        packages = sorted({NEEDED[command] for command in missing(list(NEEDED))})
        if packages:
            raise UserError(f"Slurm is not on this machine: `{INSTALL} {' '.join(packages)}` (Debian, Ubuntu).")
        if os.geteuid():
            raise UserError(
                "the test cluster needs root, for slurmd and for device files in its own directory: run it with sudo, "
                "or as root in a container."
            )
        if (
            self.layout.host == config.LOOPBACK
            and subprocess.run(config.Layout.named(self.layout, ["true"]), capture_output=True, check=False).returncode
        ):
            raise UserError(
                "this machine's host name leads out of it, and a daemon may not have one of its own here: add the line "
                f"`127.0.1.1 {socket.gethostname()}` to /etc/hosts, or run in a container with `--cap-add SYS_ADMIN`."
            )
        if re.search(r"[^\w/.@+-]", str(self.root)) or len(str(self.root)) > ROOT_LETTERS:
            raise UserError(
                f"Slurm cannot live in {self.root}: choose a path of plain letters, {ROOT_LETTERS} of them at most."
            )

    def stop(self) -> None:
        """Cancel all jobs and end every process of the cluster; its directory stays."""
        if self.controller.alive:
            self.cancel_all()
        for daemon in (*self.nodes.values(), self.controller):
            daemon.stop()
        for process in self.job_processes():  # of a node that was killed, or of a job that no controller knew any more
            process.kill()
        if self.database:
            self.database.stop()
        self.munged.stop()

    def wipe(self) -> None:
        """Stop the cluster and remove its directory."""
        self.stop()
        shutil.rmtree(self.root, ignore_errors=True)

    # ---- what tests do to it

    def kill_controller(self) -> None:
        """Send slurmctld SIGKILL."""
        self.controller.stop(signal.SIGKILL)

    def wait_for_saved_state(self) -> None:
        """Wait until slurmctld has saved what it knows, some seconds after a change: killed before, it forgets.

        A busy machine has kept it from saving for more than a minute after a change, so it gets another every 20 s.
        """
        begun, saved = time.time(), self.root / "state" / "job_state"

        def is_saved() -> bool:
            return saved.exists() and saved.stat().st_mtime > begun

        changes: list[str] = []
        while not changes or not (holds(is_saved, patience=20.0) or len(changes) == SAVED_AFTER_CHANGES):
            changes.append(self.command("sbatch", "--parsable", "--hold", "--output=/dev/null", "--wrap=true"))
        listing = "\n".join(f"{path.stat().st_mtime:.3f} {path.name}" for path in sorted(saved.parent.iterdir()))
        assert is_saved(), f"slurmctld saved nothing after {len(changes)} changes since {begun:.3f}:\n{listing}"
        self.command("scancel", *changes)

    def start_controller(self) -> None:
        """Start slurmctld anew, with the state that it saved; return when it answers."""
        self._start_controller()

    def kill_node(self, name: str) -> None:
        """Send a node's slurmd SIGKILL; its jobs' processes live on, as they do on a real node."""
        self.nodes[name].stop(signal.SIGKILL)

    def start_node(self, name: str) -> None:
        """Start a node's slurmd anew."""
        self.nodes[name].start()

    def node_down(self, name: str) -> None:
        """Have the administrator call a node down: Slurm takes it from its jobs at once."""
        self.scontrol("update", f"nodename={name}", "state=down", "reason=test")

    def node_up(self, name: str) -> None:
        """Have a node that is down back in service, and wait until it is idle."""
        self.start_node(name)
        if self._is_out(name):
            try:
                self.scontrol("update", f"nodename={name}", "state=resume")
            except AssertionError:
                if self._is_out(name):  # else it has registered, and so returned by itself, a moment before
                    raise
        self.wait_for_nodes([name])

    def _is_out(self, name: str) -> bool:
        return self.state(name).startswith(("DOWN", "DRAIN"))

    def mend(self) -> None:
        """Repair the cluster and cancel all jobs, whatever a test did to it."""
        if not self.controller.alive:
            self.start_controller()
        self.cancel_all()
        for process in self.job_processes():
            process.kill()
        for name in self.nodes:
            self.node_up(name)

    # ---- what it says

    def command(self, *words: str | Path, timeout: float = 60) -> str:
        """Return the output of a Slurm command."""
        process = subprocess.run(
            [str(word) for word in words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if process.returncode:
            raise AssertionError(f"{' '.join(map(str, words))} failed ({process.returncode}): {process.stderr.strip()}")
        return process.stdout.strip()

    def scontrol(self, *words: str) -> str:
        """Return the output of scontrol."""
        return self.command("scontrol", *words)

    def node(self, name: str) -> dict[str, str]:
        """Return the controller's fields of a node."""
        return fields(self.scontrol("show", "node", "-o", name))

    def state(self, name: str) -> str:
        """Return a node's state, such as IDLE, ALLOCATED or DOWN*."""
        return self.node(name)["State"]

    def job(self, number: str) -> dict[str, str]:
        """Return the controller's fields of a job."""
        return fields(self.scontrol("show", "job", "-o", number))

    def jobs(self) -> list[str]:
        """Return the ids of jobs that have not ended."""
        return self.command("squeue", "-h", "-o", "%i").split()

    def job_processes(self, node: str = "") -> list[psutil.Process]:
        """Return the processes of this cluster's jobs, slurmstepd first; of one node, or of all."""
        logs = {f"{self.root}/log/slurmd-{name}.log" for name in ([node] if node else self.layout.names)}
        steps, tasks = [], []
        for process in psutil.process_iter():
            try:
                if process.name() == "slurmstepd":  # its title lies over its environment: it is known by its log
                    steps += [process] * any(file.path in logs for file in process.open_files())
                    continue
                environment = process.environ()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            ours = "SLURM_JOB_ID" in environment and environment.get("SLURM_CLUSTER_NAME") == self.layout.cluster
            tasks += [process] * (ours and node in ("", environment.get("SLURMD_NODENAME")))
        return [*steps, *tasks]

    def addresses(self) -> set[str]:
        """Return the addresses at which the daemons and the jobs' srun listen."""
        daemons = [self.controller, *self.nodes.values(), *((self.database.slurmdbd,) if self.database else ())]
        processes = [*(daemon.process for daemon in daemons), *self.job_processes()]
        listening = [each for process in processes if process for each in process.net_connections("inet")]
        return {each.laddr.ip for each in listening if each.status == psutil.CONN_LISTEN}

    def log(self, name: str) -> str:
        """Return the log of slurmctld, or of slurmd-NODE."""
        return (self.root / "log" / f"{name}.log").read_text(errors="replace")

    # ---- how it is made

    def make_node(self, name: str) -> Daemon:
        """Return the slurmd of a node."""
        return self._daemon(f"slurmd-{name}", self.layout.named(["slurmd", "-D", "-N", name]))

    def wait_for_nodes(self, names: list[str]) -> None:
        """Wait until nodes are idle."""
        wait_until(
            lambda: all(self.state(name) == "IDLE" for name in names),
            f"nodes {', '.join(names)}",
            self.root / "log" / "slurmctld.log",
            every=ASK_SECONDS,
        )

    def cancel_all(self) -> None:
        """Cancel every job and wait for their ends: slurmstepd and the tasks would outlive slurmd."""
        try:
            self.command("scancel", "--user=root", timeout=30)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            print(f"the cluster's jobs are killed, not cancelled: {error}")
        deadline = time.monotonic() + 20
        living = [name for name, node in self.nodes.items() if node.alive]
        while any(self.job_processes(name) for name in living) and time.monotonic() < deadline:
            time.sleep(ASK_SECONDS)

    def _daemon(self, name: str, command: list[str]) -> Daemon:
        return Daemon(self.root, name, command, {"SLURM_CONF": str(self.layout.conf)})

    def _munged(self) -> Daemon:
        munge = self.root / "munge"
        return self._daemon(
            "munged",
            [
                *("munged", "--foreground", "--force", f"--key-file={munge}/munge.key"),
                *(f"--socket={self.layout.munge_socket}", f"--pid-file={self.root}/pid/munged"),
                *(f"--log-file={self.root}/log/munged.log", f"--seed-file={munge}/seed", "--num-threads=4"),
            ],
        )

    def _prepare(self) -> None:
        """Directories, key, device files and configuration; munged and slurmctld are particular about modes."""
        folders = ["etc", "log", "pid", "munge", "dev", "db", *(f"spool/{name}" for name in self.layout.names)]
        for folder in (self.root, *(self.root / name for name in folders)):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o755)
        (self.root / "state").mkdir(mode=0o700, exist_ok=True)
        key = self.root / "munge" / "munge.key"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_bytes(os.urandom(1024))
        for number in range(config.GPUS):
            _make_device(self.root / "dev" / f"nvidia{number}")
        config.write(self.layout)

    def _start_controller(self, lasting: bool = False) -> None:
        """Start slurmctld and wait until it listens; its clients would wait long for one that does not."""
        place, log = (self.layout.controller[1], self.layout.port0), self.root / "log" / "slurmctld.log"
        if not self.controller.alive and not holds(lambda: not listens(*place), patience=5):  # of one just killed
            raise UserError(f"port {self.layout.port0} is taken: another cluster runs; choose its ports by --port0.")
        self.controller.start(lasting)

        def answers() -> bool:
            if not self.controller.alive:
                lines = [line for line in self.log("slurmctld").splitlines() if "fatal" in line or "error" in line]
                raise AssertionError(f"slurmctld ended at its start: {lines[-3:]}")
            return listens(*place)

        wait_until(answers, "slurmctld", log)


def fields(line: str) -> dict[str, str]:
    """Return the name=value pairs of a line of `scontrol show -o`."""
    return dict(re.findall(r"(\S+?)=(\S*)", line))


def ports_of(root: Path) -> int | None:
    """Return the first port of the cluster in `root`; None if there is none."""
    conf = root / "etc" / "slurm.conf"
    match = re.search(r"^SlurmctldPort=(\d+)$", conf.read_text(), re.MULTILINE) if conf.exists() else None
    return int(match[1]) if match else None


def free_ports() -> int:
    """The first of some ports that nothing listens at; below those that the kernel gives to outgoing connections.

    They are this process's until it ends, also before a daemon listens there: several workers start clusters at once.
    """
    for port0 in random.sample(range(21000, 31000, config.PORTS), 20):
        if any(listens("127.0.0.1", port0 + number) for number in range(2 * config.NODE_PORTS)):
            continue
        claim = socket.socket()
        try:
            claim.bind(("127.0.0.1", port0 + config.CLAIM_PORT))
        except OSError:  # another process's
            claim.close()
            continue
        _claims.append(claim)
        return port0
    raise AssertionError("twenty clusters seem to run on this machine")


_claims: list[socket.socket] = []


def listens(host: str, port: int) -> bool:
    """Return whether a process listens at the port."""
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


def _make_device(path: Path) -> None:
    """A device file that is /dev/null: with a plain file Slurm leaves CUDA_VISIBLE_DEVICES empty."""
    if path.exists():
        return
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        raise UserError(
            f"{path} cannot be made: the test cluster needs the right to make device files (mknod), which this "
            "container has dropped; run it with `--cap-add=MKNOD`, or outside."
        ) from None
