"""Two stages of a pipeline, each on its own node, and two replicas: a rank is killed, and the bits are the same."""

from pathlib import Path

import pytest
import yaml

from tests.cluster.harness import Cluster
from tests.cluster.training import Training, command
from tests.project import PROFILE

pytestmark = pytest.mark.slow

LAYOUT, RANKS = {"pp": 2}, 4
MICRO_BATCHES = 4
"""Two for each replica, so that both stages work at once."""


def test_a_rank_of_two_stages_and_two_replicas_is_killed(prepared: Path, cluster: Cluster, tmp_path: Path) -> None:
    training = Training(tmp_path / "project", prepared, cluster)
    configuration = training.project.path / f"conf/{PROFILE}"
    fitting = {"micro_batches": MICRO_BATCHES}
    for stage, changes in {
        "pretrain": fitting,
        "extend": {**fitting, "batch_size": MICRO_BATCHES},
        "sft": fitting,
    }.items():
        path = configuration / f"parameters/{stage}.yml"
        parameters = yaml.safe_load(path.read_text())
        parameters[stage] |= changes
        path.write_text(yaml.safe_dump(parameters))
    local = {"launcher": "local", "processes": RANKS, "layout": LAYOUT}
    (configuration / "compute.yml").write_text(yaml.safe_dump({"train": local}))
    training.project.run(*command())
    training.undisturbed = training.end()

    training.reset(processes_per_node=RANKS // 2, layout=LAYOUT)
    driver = training.start()
    ranks = training.stop_in_the_middle(driver, number=RANKS)
    checkpoint = training.checkpoint()
    ranks[1].kill()
    training.go_on([*ranks[:1], *ranks[2:]])
    record = training.check_end(driver, jobs=2, attempts=2, first=checkpoint)
    assert record["training"]["worlds"] == [[0, RANKS, "pp 2"]]
