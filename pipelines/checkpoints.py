"""The list of checkpoints: those that the pipeline of the stage `evaluate` names (pipelines/stages/evaluate.py)."""

from engine.errors import UserError
from pipelines import graph
from pipelines.stages_file import load_stages_file

SUFFIX = "_checkpoint"
NO_CHAT = "pretraining"
"""The group in kedro.yml whose stages train on text alone: their checkpoints have never seen the chat format."""


def checkpoints() -> dict[str, str]:
    """Return the name that people type of each checkpoint, and its dataset, in the order of training."""
    (node,) = graph.stage_graph("evaluate").pipeline.nodes
    return {name.removesuffix(SUFFIX): name for name in node.inputs if name.endswith(SUFFIX)}


def last() -> str:
    """Return the name of the checkpoint that training ends with."""
    return list(checkpoints())[-1]


def dataset_of(name: str) -> str:
    """Return the dataset of the checkpoint called `name`. Raises UserError for an unknown one."""
    known = checkpoints()
    if name not in known:
        raise UserError(f"there is no checkpoint {name!r}: choose one of {', '.join(known)}.")
    return known[name]


def can_chat(name: str) -> bool:
    """Return whether a checkpoint was trained on the chat format, and so answers in place of going on from a text."""
    return load_stages_file().stage(graph.producer(dataset_of(name))).group != NO_CHAT


def adoptable() -> list[str]:
    """Return the datasets of the checkpoints that can be imported: their stages make no tables, which later ones read.

    A checkpoint cannot give such a table.
    """
    return [name for name in checkpoints().values() if not _makes_tables(graph.producer(name))]


def _makes_tables(stage: str) -> bool:
    return any("table" in graph.catalog_entries(None)[name] for name in graph.stage_graph(stage).outputs)
