"""The configuration of a Slurm cluster that lives in one directory of one machine: slurm.conf and what goes with it.

Every node is a slurmd on a port of its own, with 8 H800 that are /dev/null. Timers are short, so that a test sees in
seconds what a real cluster takes minutes for.
"""

import hashlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CPUS = 16  # pretended
GPUS = 8
MEMORY_MB = 20000  # pretended
NODE_PORTS = 10  # from port0 + 10 on; port0 is the controller's, port0 + 1 slurmdbd's
CLAIM_PORT = 2  # behind port0: nobody listens there, but whoever is to use these ports has it
JOB_PORTS = 100  # from port0 + 100 on: the rendezvous of job N is at port 20000 + N % 20000
PORTS = 200  # between two clusters side by side
LOOPBACK = ("localhost", "127.0.0.1")
"""The host name that daemons get where this machine's own leads out of it."""


@dataclass(frozen=True)
class Layout:
    """The directory of a cluster, and the names of its parts."""

    root: Path
    nodes: int
    port0: int
    accounting: bool = False

    @property
    def names(self) -> list[str]:
        """The names of the nodes."""
        return [f"h800-{number}" for number in range(self.nodes)]

    @property
    def range(self) -> str:
        """All nodes in Slurm's notation."""
        return f"h800-[0-{self.nodes - 1}]"

    @property
    def cluster(self) -> str:
        """The cluster's name: its own, so that the processes of its jobs are known by it."""
        return "k2" + hashlib.blake2s(str(self.root).encode(), digest_size=4).hexdigest()

    @property
    def conf(self) -> Path:
        """The path of slurm.conf, for SLURM_CONF."""
        return self.root / "etc" / "slurm.conf"

    @property
    def munge_socket(self) -> Path:
        """The socket of munged."""
        return self.root / "munge" / "munge.socket"

    def node_port(self, name: str) -> int:
        """The port of a node's slurmd."""
        return self.port0 + NODE_PORTS + self.names.index(name)

    def address(self, name: str) -> tuple[str, str]:
        """Host name and address at which a node is found."""
        return self.host

    @property
    def controller(self) -> tuple[str, str]:
        """Host name and address at which the controller is found."""
        return self.host

    @property
    def host(self) -> tuple[str, str]:
        """The host name of the daemons and its address, a loopback one, since they listen where their name leads to."""
        name = socket.gethostname().split(".")[0]
        try:
            address = socket.gethostbyname(name)
        except OSError:
            address = ""
        return (name, address) if address.startswith("127.") else LOOPBACK

    def named(self, command: Sequence[str]) -> list[str]:
        """The command of a daemon, which sees the host name `host`."""
        if self.host != LOOPBACK:
            return list(command)
        return ["unshare", "--uts", "sh", "-c", f'hostname {LOOPBACK[0]} && exec "$@"', "sh", *command]


def write(layout: Layout) -> None:
    """Write slurm.conf, gres.conf and cgroup.conf."""
    etc = layout.conf.parent
    layout.conf.write_text("\n".join([slurm(layout), *(_ACCOUNTING.format_map(_words(layout)),) * layout.accounting]))
    with layout.conf.open("a") as file:
        file.write("\n".join([*(node(layout, name) for name in layout.names), _PARTITIONS.format_map(_words(layout))]))
    (etc / "gres.conf").write_text(
        f"AutoDetect=off\nNodeName={layout.range} Name=gpu Type=h800 File={layout.root}/dev/nvidia[0-{GPUS - 1}]\n"
    )
    # slurmd loads a cgroup plugin even for linuxproc and task/none. Named, it does not look for one, which is fatal
    # where nothing is mounted on /sys/fs/cgroup and wants systemd where there is cgroup v2.
    (etc / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")


def slurm(layout: Layout) -> str:
    """slurm.conf without its nodes and partitions."""
    return _SLURM.format_map(_words(layout))


def node(layout: Layout, name: str) -> str:
    """A node's line in slurm.conf."""
    host, address = layout.address(name)
    return (
        f"NodeName={name} NodeHostname={host} NodeAddr={address} Port={layout.node_port(name)} CPUs={CPUS} Sockets=1 "
        f"CoresPerSocket={CPUS} ThreadsPerCore=1 RealMemory={MEMORY_MB} Gres=gpu:h800:{GPUS} State=UNKNOWN"
    )


def _words(layout: Layout) -> dict[str, object]:
    host, address = layout.controller
    return {
        "root": layout.root,
        "cluster": layout.cluster,
        "controller": f"{host}({address})",
        "port": layout.port0,
        "dbd_host": layout.host[1],
        "dbd_port": layout.port0 + 1,
        "munge": layout.munge_socket,
        "nodes": layout.range,
        "first_job": layout.port0 + JOB_PORTS - 20000,
    }


# cred_expire: a requeued job waits for as long as its old credential may live, by default two minutes.
# FirstJobId: jobs meet at a port made of their id, and clusters side by side must not meet at the same.
# CommunicationParameters: daemons and srun listen on a loopback address alone, not on every one of the machine.
# MinJobAge: how long the controller tells of a job that ended; SlurmdTimeout: until a dead node is called so.
_SLURM = """\
ClusterName={cluster}
SlurmctldHost={controller}
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={munge},cred_expire=5
CredType=cred/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/pid/slurmctld
SlurmdPidFile={root}/pid/slurmd-%n
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd-%n.log
SlurmctldDebug=info
SlurmdDebug=verbose
FirstJobId={first_job}

ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=5
MpiDefault=none
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SwitchType=switch/none
ReturnToService=2

SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=100000,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1

SlurmctldTimeout=10
SlurmdTimeout=15
KillWait=5
OverTimeLimit=0
MinJobAge=3600
InactiveLimit=0
MessageTimeout=10
BatchStartTimeout=10
CompleteWait=0
JobCompType=jobcomp/filetxt
JobCompLoc={root}/log/jobcomp.log
"""

# AccountingStoragePass: the connection to slurmdbd does not look at AuthInfo.
_ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={dbd_host}
AccountingStoragePort={dbd_port}
AccountingStoragePass={munge}
AccountingStorageTRES=gres/gpu,gres/gpu:h800
AccountingStoreFlags=job_comment,job_env,job_script
"""

_PARTITIONS = """
PartitionName=h800 Nodes={nodes} Default=YES MaxTime=INFINITE DefaultTime=01:00:00 DefMemPerCPU=500 PriorityTier=1 \
PreemptMode=REQUEUE State=UP
PartitionName=urgent Nodes={nodes} MaxTime=INFINITE DefMemPerCPU=500 PriorityTier=10 PreemptMode=OFF State=UP
"""
