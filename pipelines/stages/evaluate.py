"""evaluate: every checkpoint on every suite, one report."""

from kedro.pipeline import Node, Pipeline

from nodes.evaluate.nodes import evaluate_checkpoints


def create_pipeline() -> Pipeline:
    """The stage's nodes."""
    return Pipeline(
        [
            Node(
                evaluate_checkpoints,
                inputs=[
                    "tokenizer",
                    "shards",
                    "documents",
                    "tasks",
                    "base_checkpoint",
                    "extended_checkpoint",
                    "sft_checkpoint",
                    "rl_checkpoint",
                    "pretrain_metrics",
                    "extend_metrics",
                    "sft_metrics",
                    "rl_metrics",
                    "params:evaluate",
                    "workspace",
                ],
                outputs=["report", "evaluate_metrics"],
                name="evaluate_checkpoints",
            ),
        ]
    )
