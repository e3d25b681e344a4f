"""sft: fine-tune with Muon on chats, tool trajectories and demonstrations, with loss on assistant turns."""

from kedro.pipeline import Node, Pipeline

from nodes.sft.nodes import build_examples, train_sft


def create_pipeline() -> Pipeline:
    """Return the stage's nodes."""
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
