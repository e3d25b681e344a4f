"""A cluster whose nodes each have a network, a host name and an /etc/hosts of their own, so that cables can be cut."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from engine.errors import UserError
from tests.cluster.config import NODE_PORTS, Layout
from tests.cluster.daemon import Daemon, missing
from tests.cluster.harness import INSTALL, Cluster


class Network(Layout):
    """Nodes at addresses of their own on a bridge; this machine, with the controller, is the bridge's first."""

    @property
    def subnet(self) -> str:
        """The first three numbers of every address; those of clusters side by side differ."""
        return f"10.77.{self.port0 // 200 % 256}"

    @property
    def bridge(self) -> str:
        """The name of the bridge to which all nodes are connected."""
        return f"{self.cluster}b"

    def cable(self, name: str) -> str:
        """The bridge's end of a node's cable, which is also the name of the node's network namespace."""
        return f"{self.cluster}n{self.names.index(name)}"

    def address(self, name: str) -> tuple[str, str]:
        """A node is found under its own name."""
        return name, f"{self.subnet}.{10 + self.names.index(name)}"

    @property
    def controller(self) -> tuple[str, str]:
        """The name and address of this machine, as the nodes see it."""
        return "controller", f"{self.subnet}.1"

    def named(self, command: Sequence[str]) -> list[str]:
        """The command of a daemon on this machine, which sees that name and address of itself."""
        return self.sees(self.controller[0], command)

    def sees(self, host: str, command: Sequence[str]) -> list[str]:
        """A command that sees `host` as its host name, and everybody's address in /etc/hosts."""
        inside = f'mount --bind {self.root}/etc/hosts /etc/hosts && hostname {host} && exec "$@"'
        return ["unshare", "--uts", "--mount", "--propagation", "private", "sh", "-c", inside, "sh", *command]

    def node_port(self, name: str) -> int:
        """One port for all: each has it on its own address."""
        return self.port0 + NODE_PORTS


class PartitionedCluster(Cluster):
    """A Cluster in network namespaces."""

    layout: Network
    layout_class = Network

    def check(self) -> None:
        """Raise UserError where the machine cannot have such a cluster."""
        super().check()
        if missing(["ip"]):
            raise UserError(f"network namespaces need iproute2: `{INSTALL} iproute2`.")

    def start(self, lasting: bool = False) -> None:
        """Lay the cables, then start the cluster."""
        self.check()
        self._connect()
        super().start(lasting)

    def stop(self) -> None:
        """Stop the cluster, then remove bridge, cables and namespaces."""
        super().stop()
        for name in self.layout.names:
            _ip("netns", "del", self.layout.cable(name), check=False)
            _ip("link", "del", self.layout.cable(name), check=False)  # else it vanishes a moment later
        _ip("link", "del", self.layout.bridge, check=False)

    def cut(self, name: str) -> None:
        """Cut a node's cable: node and controller no longer hear each other, and both live on."""
        _ip("link", "set", self.layout.cable(name), "down")

    def heal(self, name: str) -> None:
        """Mend a node's cable."""
        _ip("link", "set", self.layout.cable(name), "up")

    def make_node(self, name: str) -> Daemon:
        """The slurmd of a node, which takes its name from the host name that it sees."""
        own = self.layout.sees(name, ["slurmd", "-D"])
        return self._daemon(f"slurmd-{name}", ["ip", "netns", "exec", self.layout.cable(name), *own])

    def _connect(self) -> None:
        layout, width = self.layout, 24
        if (Path("/sys/class/net") / layout.bridge).exists():
            return
        _ip("link", "add", layout.bridge, "type", "bridge")
        _ip("addr", "add", f"{layout.controller[1]}/{width}", "dev", layout.bridge)
        _ip("link", "set", layout.bridge, "up")
        for name in layout.names:
            space = cable = layout.cable(name)
            _ip("netns", "add", space)
            _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("link", "set", cable, "master", layout.bridge, "up")
            _ip("-n", space, "addr", "add", f"{layout.address(name)[1]}/{width}", "dev", "eth0")
            _ip("-n", space, "link", "set", "eth0", "up")
            _ip("-n", space, "link", "set", "lo", "up")
        places = [layout.controller, *(layout.address(name) for name in layout.names)]
        lines = ["127.0.0.1 localhost", *(f"{address} {host}" for host, address in places)]
        layout.conf.parent.mkdir(parents=True, exist_ok=True)
        (layout.conf.parent / "hosts").write_text("\n".join(lines) + "\n")


def _ip(*words: str, check: bool = True) -> None:
    process = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if check and process.returncode:
        raise UserError(
            f"`ip {' '.join(words)}` failed ({process.stderr.strip()}): a cluster with cables to cut needs root and "
            "the right to make network namespaces (in a container `--privileged`)."
        )
