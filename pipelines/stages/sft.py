"""sft: chats, tool trajectories and demonstrations; loss on assistant turns; Muon."""

from kedro.pipeline import Node, Pipeline

from nodes.sft.nodes import build_examples, train_sft


def create_pipeline() -> Pipeline:
    """The stage's nodes."""
    return Pipeline(
        [
            Node(
                build_examples,
                inputs=["documents", "trajectories", "params:sft", "workspace"],
                outputs="sft_examples",
                name="build_examples",
                tags="cpu",
            ),
            Node(
                train_sft,
                inputs=["tokenizer", "extended_checkpoint", "sft_examples", "shards", "params:sft", "workspace"],
                outputs=["sft_checkpoint", "sft_history", "sft_metrics"],
                name="train_sft",
                tags="parallel",
            ),
        ]
    )
