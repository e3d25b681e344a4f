"""rephrase: rewrite documents in other styles and perspectives, and gate the rewrites for fidelity."""

from kedro.pipeline import Node, Pipeline

from nodes.rephrase.nodes import rephrase_documents


def create_pipeline() -> Pipeline:
    """Return the stage's nodes."""
    return Pipeline(
        [
            Node(
                rephrase_documents,
                inputs=["documents", "params:rephrase", "workspace"],
                outputs=["rewrites", "rejected_rewrites", "rephrase_metrics"],
                name="rephrase_documents",
                tags="sharded",
            ),
        ]
    )
