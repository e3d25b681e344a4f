"""extend: train the base checkpoint to read longer contexts."""

from kedro.pipeline import Node, Pipeline

from nodes.extend.nodes import train_extend


def create_pipeline() -> Pipeline:
    """Return the stage's nodes."""
    return Pipeline(
        [
            Node(
                train_extend,
                inputs=["tokenizer", "shards", "base_checkpoint", "params:extend", "workspace"],
                outputs=["extended_checkpoint", "extend_report", "extend_metrics"],
                name="train_extend",
                tags=["train", "parallel"],
            ),
        ]
    )
