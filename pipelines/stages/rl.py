"""rl: train the fine-tuned checkpoint with K2's squared objective on a verifiable task."""

from kedro.pipeline import Node, Pipeline

from nodes.rl.nodes import train_rl


def create_pipeline() -> Pipeline:
    """Return the stage's nodes."""
    return Pipeline(
        [
            Node(
                train_rl,
                inputs=["tokenizer", "sft_checkpoint", "sft_examples", "shards", "tasks", "params:rl", "workspace"],
                outputs=["rl_checkpoint", "rollouts", "rl_history", "rl_metrics"],
                name="train_rl",
                tags="parallel",
            ),
        ]
    )
