"""A node's cable is cut in the middle of training: Slurm gives the node up, and the job goes on without it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.partition import PartitionedCluster
from tests.cluster.training import Training

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PartitionedCluster]:
    with PartitionedCluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


def test_every_node_has_a_name_and_an_address_of_its_own(cluster: PartitionedCluster, tmp_path: Path) -> None:
    outputs = tmp_path / "output"
    script = "srun sh -c 'hostname; getent hosts h800-2'"
    cluster.command("sbatch", "--wait", "--nodes=3", f"--output={outputs}", f"--wrap={script}")
    address = cluster.layout.address("h800-2")[1]
    words = outputs.read_text().split()
    assert {"h800-0", "h800-1", "h800-2"} <= set(words)
    assert words.count(address) == 3


def test_cut_off(cluster: PartitionedCluster, prepared: Path, tmp_path: Path) -> None:
    """The rank on the lonely node lives on and must not touch what the others do."""
    training = Training(tmp_path / "project", prepared, cluster)
    training.reset(fabric={"GLOO_SOCKET_IFNAME": "eth0"})
    driver = training.start()
    ranks = training.stop_in_the_middle(driver)
    checkpoint = training.checkpoint()
    cluster.cut("h800-1")
    training.go_on(ranks)
    training.wait_for_attempt(1, driver)
    record = training.check_end(driver, jobs=1, attempts=2, first=checkpoint)
    assert record["jobs"]["train_pretrain"]["nodes"] == ["h800-0", "h800-1", "h800-2"]
    cluster.heal("h800-1")
    cluster.node_up("h800-1")
