"""corpus: clean, deduplicate, split and describe the documents of four domains."""

from kedro.pipeline import Node, Pipeline

from nodes.corpus.nodes import build_corpus


def create_pipeline() -> Pipeline:
    """Return the stage's nodes."""
    return Pipeline(
        [
            Node(
                build_corpus,
                inputs=["params:corpus", "workspace"],
                outputs=["documents", "rejected_documents", "corpus_card", "corpus_metrics"],
                name="build_corpus",
            ),
        ]
    )
