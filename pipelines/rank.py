"""One process of a node: the same node and catalog entries as the driver's, no CLI, no gates, no publishing.

    python -m pipelines.rank --env laptop --stage pretrain --node train_base --key 0123456789abcdef

It loads the node's inputs, runs it in the stage's workspace and hands its outputs to the driver
(engine/launch/exchange).
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.launch import exchange
from engine.launch.lifetime import die_with_parent
from pipelines import graph
from pipelines.errors import full_disc, user_error
from pipelines.manifest import load_manifest


def main() -> None:
    """Run one node; exit 1 with the sentence handed to the driver if the user can put the error right."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    for name in ("env", "stage", "node", "key"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--parent", type=int, default=None, help="die when this process does")
    asked = parser.parse_args()
    if asked.parent is not None:
        die_with_parent(asked.parent)
    workspace = graph.data_folder(load_manifest().profile(asked.env)) / ".work" / asked.stage / asked.key
    try:
        outputs, seconds = run_node(asked.env, asked.stage, asked.node, workspace)
        exchange.write_outputs(workspace, asked.node, outputs, seconds)
    except Exception as error:
        found = user_error(error) or full_disc(error)
        if found is None:
            raise
        exchange.write_error(workspace, asked.node, str(found))
        sys.exit(1)


def run_node(profile: str, stage: str, name: str, workspace: Path) -> tuple[dict[str, Any], float]:
    """Load a node's inputs, run it, return its outputs by dataset name and the seconds it took."""
    if not workspace.is_dir():
        raise UserError(
            f"{workspace} is missing: a rank is started by the driver, use `kedro run --pipelines {stage}`."
        )
    node = next(node for node in graph.stage_graph(stage).pipeline.nodes if node.name == name)
    given = exchange.read_parameters(workspace, name)
    inputs = {key: _load(profile, key, given, workspace) for key in node.inputs}
    begun = time.monotonic()
    return dict(node.run(inputs)), round(time.monotonic() - begun, 3)


def _load(profile: str, name: str, given: dict[str, Any], workspace: Path) -> Any:
    if name == "workspace":
        return workspace
    return given[name] if name in given else graph.dataset(profile, name).load()


if __name__ == "__main__":
    main()
