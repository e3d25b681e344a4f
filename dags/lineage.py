"""The dependencies between published datasets, read from the pipelines and the catalog."""

from pipelines import graph


def gated(datasets: tuple[str, ...]) -> list[str]:
    """Return those of `datasets` that a gate judges."""
    entries = graph.catalog_entries(None)
    return [dataset for dataset in datasets if entries[dataset].get("gate")]


def dependencies(stage: str, dataset: str) -> list[str]:
    """Return the datasets that one output is made from, through intermediate results that are not published."""
    nodes = graph.stage_graph(stage).pipeline.nodes
    makers = {output: node for node in nodes for output in node.outputs}
    published = graph.catalog_entries(None)
    direct: dict[str, None] = {}
    waiting = list(makers[dataset].inputs)
    while waiting:
        name = waiting.pop(0)
        if name in published:
            direct[name] = None
        elif name in makers:
            waiting += makers[name].inputs
    return list(direct)
