"""pretrain: train the base checkpoint from token shards."""

from kedro.pipeline import Node, Pipeline

from nodes.pretrain.nodes import train_pretrain


def create_pipeline() -> Pipeline:
    """Return the stage's nodes."""
    return Pipeline(
        [
            Node(
                train_pretrain,
                inputs=["tokenizer", "shards", "params:pretrain", "workspace"],
                outputs=["base_checkpoint", "pretrain_history", "pretrain_metrics"],
                name="train_pretrain",
                tags=["train", "parallel"],
            ),
        ]
    )
