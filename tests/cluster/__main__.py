"""A Slurm cluster on this machine, to try the dispatch of a stage: `make cluster`, `make cluster-stop`."""

import argparse
from pathlib import Path

from pipelines.errors import report_errors
from tests.cluster.harness import Cluster
from tests.project import ROOT

COMPUTE = Path(__file__).with_name("compute.yml")


def main() -> None:
    """Start the cluster, or stop it and remove its directory; print the next command."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(".slurm"), help="its directory (%(default)s)")
    parser.add_argument("--nodes", type=int, default=3, help="nodes of 8 pretended H800 each (%(default)s)")
    parser.add_argument("--port0", type=int, help="the first of 200 ports")
    parser.add_argument("--accounting", action="store_true", help="with slurmdbd and MariaDB, so that sacct works")
    parser.add_argument("--stop", action="store_true", help="stop it, cancel its jobs, remove its directory")
    arguments = parser.parse_args()
    with report_errors():
        cluster = Cluster(
            arguments.root,
            arguments.nodes,
            arguments.port0,
            arguments.accounting or (arguments.root / "db/data").exists(),
        )
        if arguments.stop:
            cluster.wipe()
            return
        cluster.start(lasting=True)
    print(
        f"{arguments.nodes} nodes are idle (see sinfo, squeue, scancel). In the shell in which you type:\n\n"
        f"    export SLURM_CONF={cluster.layout.conf} K2_COMPUTE={COMPUTE.relative_to(ROOT)}\n"
        "    make smoke                                               # training stages are jobs on two nodes\n"
        "    kedro run --env smoke --pipelines pretrain --dry-run     # the job script; without --dry-run, the job\n\n"
        "`make cluster-stop` ends it."
    )


if __name__ == "__main__":
    main()
