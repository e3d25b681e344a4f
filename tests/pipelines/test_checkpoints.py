"""The checkpoints that commands know are those that evaluate measures."""

import pytest

from engine.errors import UserError
from pipelines import checkpoints, graph


def test_every_checkpoint_that_a_stage_publishes_is_measured_in_the_order_of_training() -> None:
    published = [name for name in graph.catalog_entries(None) if name.endswith(checkpoints.SUFFIX)]
    assert list(checkpoints.checkpoints().values()) == published
    assert f"{checkpoints.last()}_checkpoint" == published[-1]
    (node,) = graph.stage_graph("evaluate").pipeline.nodes
    for dataset in published:
        assert f"{graph.producer(dataset)}_metrics" in node.inputs, "the report shows what its stage measured"


def test_only_fine_tuned_checkpoints_know_the_chat_format() -> None:
    assert [name for name in checkpoints.checkpoints() if checkpoints.can_chat(name)] == ["sft", "rl"]


def test_a_checkpoint_whose_stage_makes_tables_cannot_be_imported() -> None:
    assert checkpoints.adoptable() == ["base_checkpoint", "extended_checkpoint"]


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="no checkpoint 'best': choose one of base, extended, sft, rl"):
        checkpoints.dataset_of("best")
