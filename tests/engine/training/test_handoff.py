"""The checkpoint of a cut model has the bytes of the whole one, of which each rank reads its part."""

import json

import pytest
import torch

from engine.artifacts.files import files_below
from engine.errors import UserError
from engine.model.checkpoint import load_checkpoint, save_checkpoint
from engine.model.model import K2Model
from engine.optim.muonclip import MuonClip
from engine.parallel.layout import Layout
from engine.parallel.mesh import laid_out, mesh
from engine.training.handoff import SavedTensors, hand_off, save_whole
from engine.training.sealed import INDEX
from engine.training.state import TrainState
from tests.engine.parallel.ranks import together
from tests.engine.tiny import config
from tests.engine.training.test_checkpoints import saved, store_in

EXTRA = {"stage": "pretrain"}
LAYOUTS = [(Layout(ep=2), 2), (Layout(pp=2, ep=2), 4)]


def handed_off(rank, work, layout):
    """Whether this rank reads its part of what it and the others have handed off."""
    with laid_out(layout):
        model = K2Model(config(), seed=3, part=mesh().part(config()))
        saved(store_in(work, mesh().grid), TrainState(model, MuonClip(model, 0.02)))
        hand_off(work / f"of {rank}", model, EXTRA, work)
        save_whole(work / f"saved by {rank}", model, EXTRA)
        again = load_checkpoint(work / "of 0")
        assert again.part == model.part
        own = model.state_dict()
        return [name for name, tensor in again.state_dict().items() if not torch.equal(tensor, own.pop(name))] + [*own]


@pytest.mark.parametrize(("layout", "ranks"), LAYOUTS, ids=str)
def test_a_cut_model_is_handed_off_whole_by_the_first_rank_and_read_in_parts(tmp_path, layout, ranks):
    assert together(ranks, handed_off, tmp_path, layout) == [[]] * ranks
    save_checkpoint(tmp_path / "whole", K2Model(config(), seed=3), EXTRA)
    for path in files_below(tmp_path / "whole"):
        for made in ("of 0", "saved by 0"):
            assert (tmp_path / made / path.name).read_bytes() == path.read_bytes(), path.name
    assert {path.name for path in tmp_path.iterdir()} == {"of 0", "saved by 0", "whole", "checkpoints", "history.jsonl"}


def test_a_checkpoint_without_a_part_of_a_tensor_is_refused_by_name(tmp_path):
    model = K2Model(config())
    saved(store_in(tmp_path), TrainState(model, MuonClip(model, 0.02)))
    directory = tmp_path / "checkpoints/00000000"
    index = json.loads((directory / INDEX).read_text())
    name = "model:layers.1.mlp.experts.down_proj"
    (chunk,) = index["tensors"][name]["chunks"]
    chunk["sizes"][0] -= 1
    (directory / INDEX).write_text(json.dumps(index))
    tensors = SavedTensors(directory)
    assert torch.equal(tensors.read(name, range(1, 4)), model.layers["1"].mlp.experts.down_proj[1:4])
    with pytest.raises(UserError, match=f"00000000 holds only a part of {name}"):
        tensors.read(name)
