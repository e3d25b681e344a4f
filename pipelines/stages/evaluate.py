"""evaluate: score every checkpoint on every suite and write one report.

This is the list of checkpoints: those that are named here are measured, and `make chat` and `make export` know them.
"""

from kedro.pipeline import Node, Pipeline

from nodes.evaluate.nodes import evaluate_checkpoints


def create_pipeline() -> Pipeline:
    """Return the stage's nodes."""
    return Pipeline(
        [
            Node(
                evaluate_checkpoints,
                inputs={
                    "tokenizer": "tokenizer",
                    "shards": "shards",
                    "documents": "documents",
                    "tasks": "tasks",
                    "parameters": "params:evaluate",
                    "workspace": "workspace",
                    # each checkpoint, in the order of training, and beside it what its stage measured
                    "base_checkpoint": "base_checkpoint",
                    "pretrain_metrics": "pretrain_metrics",
                    "extended_checkpoint": "extended_checkpoint",
                    "extend_metrics": "extend_metrics",
                    "sft_checkpoint": "sft_checkpoint",
                    "sft_metrics": "sft_metrics",
                    "rl_checkpoint": "rl_checkpoint",
                    "rl_metrics": "rl_metrics",
                },
                outputs=["report", "evaluate_metrics"],
                name="evaluate_checkpoints",
            ),
        ]
    )
