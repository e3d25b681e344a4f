"""tokenization: learn the tokenizer, then encode, mix by domain and pack into shards."""

from kedro.pipeline import Node, Pipeline

from nodes.tokenization.nodes import train_tokenizer, write_shards


def create_pipeline() -> Pipeline:
    """Return the stage's nodes."""
    return Pipeline(
        [
            Node(
                train_tokenizer,
                inputs=["documents", "rewrites", "trajectories", "params:tokenization", "workspace"],
                outputs="tokenizer",
                name="train_tokenizer",
            ),
            Node(
                write_shards,
                inputs=["tokenizer", "documents", "rewrites", "trajectories", "params:tokenization", "workspace"],
                outputs=["shards", "tokenization_metrics"],
                name="write_shards",
                tags="sharded",
            ),
        ]
    )
