"""Checkpoints: cut anew for other ranks, written beside the training, refused by name, one staging copy in memory."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from engine.artifacts.files import digest_file
from engine.errors import UserError
from engine.model.model import K2Model
from engine.optim.muonclip import MuonClip
from engine.parallel import data
from engine.parallel.layout import WHOLE, Grid, Layout
from engine.parallel.mesh import laid_out, mesh
from engine.parallel.placement import Piece, held
from engine.training.digest import piece_sum
from engine.training.position import position
from engine.training.resume import CannotResume, CheckpointStore
from engine.training.sealed import checkpoints, digests_in, seal
from engine.training.state import TrainState
from tests.engine.parallel.ranks import together
from tests.engine.tiny import config
from tests.engine.training.placed import PlacedState, whole

ROOT = Path(__file__).parents[3]
NUMERICS = {"torch": "any"}


def store_in(work, grid=None):
    """The store of a run in `work`, whose history is there."""
    if data.ranks().first:
        work.mkdir(parents=True, exist_ok=True)
        (work / "history.jsonl").touch()
    data.from_first(None)
    return CheckpointStore(work / "checkpoints", work / "history.jsonl", NUMERICS, grid or Grid(dp=data.ranks().size))


def saved(store, state):
    """The digest of a state after it was written."""
    with store:
        store.save(state)
    return data.from_first(store.digest)


def loaded(store, state):
    """The state after the newest checkpoint was read into it."""
    saved = store.latest()
    assert saved is not None, store.notes
    store.load(saved, state)
    return state


def equal(ours, theirs):
    return ours.keys() == theirs.keys() and all(
        ours[name].dtype == theirs[name].dtype and torch.equal(ours[name], theirs[name]) for name in ours
    )


def begin(rank, work, grid):
    """Write the first checkpoint of a state that lies on a grid."""
    store = store_in(work, grid)
    store.latest()
    state = PlacedState(grid, rank, whole())
    state.step = 1
    return saved(store, state)


def cut_anew(rank, work, grid):
    """Read the newest checkpoint as this grid lies, compare, write it again; its digest and the bytes written."""
    store = store_in(work, grid)
    state = loaded(store, PlacedState(grid, rank))
    assert equal(state.held, PlacedState(grid, rank, whole()).held)
    state.step += 1
    return saved(store, state), sum(tensor.nbytes for tensor in state.held.values())


def test_weights_momenta_and_biases_are_bit_equal_through_other_layouts_and_back(tmp_path):
    digests = set(together(4, begin, tmp_path, Grid(2, 2, 1)))
    for grid in (Grid(ep=2), Grid(), Grid(2, 2, 1), Grid(1, 2, 2)):
        replies = together(grid.ranks, cut_anew, tmp_path, grid) if grid.ranks > 1 else [cut_anew(0, tmp_path, grid)]
        digests |= {digest for digest, _ in replies}
    assert len(digests) == 1, "the digest of a state does not depend on how it lies"
    other = whole()
    other["model:layers.3.bias"][2] += 1e-6
    state = PlacedState(Grid(), 0, other)
    state.step = 9
    assert saved(store_in(tmp_path), state) not in digests


CHAIN = [(WHOLE, 1), (Layout(ep=2), 2), (WHOLE, 2), (Layout(pp=2, ep=2), 4), (Layout(pp=2, vpp=2), 4), (WHOLE, 1)]
"""The layouts, with their numbers of ranks, through which the real model's state goes."""
ZERO = Layout(zero=1)
ZERO_CHAIN = [(ZERO, 2), (WHOLE, 1), (ZERO, 4), (Layout(ep=2, zero=1), 4), (Layout(pp=2, ep=2, zero=1), 4), (WHOLE, 2)]


def moved(kind):
    """A state of a model of five layers after two steps, of which four can be two ranks' vpp stages."""
    torch.manual_seed(0)
    model = K2Model(config(num_hidden_layers=5)).to(DTYPE_OF[kind])
    state = TrainState(model, MuonClip(model, 0.02, tau=0.5, **RULE_OF[kind]))
    for step in range(2):
        ids = torch.randint(0, 61, (4, 17), generator=torch.Generator().manual_seed(step))
        model(ids).float().logsumexp(-1).mean().backward()
        for router in model.routers().values():
            router.balance_(0.01)
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.step += 1
    return state


RULE_OF = {"muon": {}, "adamw": {"is_muon": lambda name, parameter: False}, "bfloat16": {"per_head": True}}
DTYPE_OF = {"muon": torch.float32, "adamw": torch.float32, "bfloat16": torch.bfloat16}


def relaid(rank, work, layout, kind):
    """Read the newest checkpoint into this rank's part of a new model and write it again; its digest and its pieces."""
    with laid_out(layout):
        model = K2Model(config(num_hidden_layers=5), seed=7, part=mesh().part(config(num_hidden_layers=5)))
        optimizer = MuonClip(model.to(DTYPE_OF[kind]), 0.02, tau=0.5, zero=layout.zero == 1, **RULE_OF[kind])
        state = loaded(store_in(work, mesh().grid), TrainState(model, optimizer))
        whole_state = moved(kind)
        odd = []
        for name, tensor in whole_state.tensors().items():
            part = held(state.placement(name), tuple(tensor.shape), mesh().grid, rank)
            own = state.tensors().get(name)
            if part is None or own is None:
                odd += [name] * (part is not own)
                continue
            ends = zip(part.offsets, part.sizes, strict=True)
            odd += [name] * (not torch.equal(own, tensor[tuple(slice(start, start + size) for start, size in ends)]))
        odd += sorted(state.tensors().keys() - whole_state.tensors().keys())
        state.step += 1
        return odd, saved(store_in(work, mesh().grid), state)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("chain", "kind"), [(CHAIN, "muon"), (CHAIN, "adamw"), (ZERO_CHAIN, "bfloat16"), (ZERO_CHAIN, "adamw")]
)
def test_a_model_s_state_is_bit_equal_through_other_layouts_and_back(tmp_path, chain, kind):
    digests = {saved(store_in(tmp_path), moved(kind))}
    for layout, size in chain:
        given = tmp_path, layout, kind
        for odd, digest in together(size, relaid, *given) if size > 1 else [relaid(0, *given)]:
            assert odd == []
            digests.add(digest)
    assert len(digests) == 1, "the digest of a state does not depend on how it lies"


def trained(rank=0, dtype=torch.float32, steps=3, seed=0):
    """A TrainState after some steps, the same on every rank."""
    torch.manual_seed(seed)
    model = K2Model(config(), seed=seed).to(dtype)
    state = TrainState(model, MuonClip(model, 0.02, tau=0.5))
    for step in range(steps):
        ids = torch.randint(0, 61, (4, 17), generator=torch.Generator().manual_seed(step))
        model(ids[:, :-1]).float().logsumexp(-1).mean().backward()
        for router in model.routers().values():
            router.balance_(0.01)
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.step += 1
    return state


def write(rank, work, dtype):
    store = store_in(work)
    store.latest()
    digest = saved(store, trained(rank, dtype))
    return digest, sorted(path.name for path in (work / "checkpoints/00000003").iterdir())


def differing(rank, work, dtype):
    """The tensors that are not as they were saved; and, where there are masters, weights that are not theirs."""
    state = loaded(store_in(work), trained(rank, dtype, steps=0, seed=7))
    ours, theirs = state.tensors(), trained(rank, dtype).tensors()
    odd = [name for name in theirs if name not in ours or not torch.equal(ours[name], theirs[name])]
    masters = {name: tensor for name, tensor in ours.items() if name.startswith("optimizer:master/")}
    assert len(masters) == (len(list(state.model.parameters())) if dtype == torch.bfloat16 else 0)
    for name, master in masters.items():
        weight = ours[name.replace("optimizer:master/", "model:")]
        odd += [f"working weight of {name}"] * (not torch.equal(weight, master.to(dtype)))
    return odd + sorted(ours.keys() - theirs.keys()), state.step


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_written_by_two_ranks_and_read_by_one_and_four(tmp_path, dtype):
    (digest, files), _ = together(2, write, tmp_path, dtype)
    assert [name for name in files if name.startswith("rank")] == ["rank-00000.safetensors", "rank-00001.safetensors"]
    sizes = [(tmp_path / "checkpoints/00000003" / f"rank-0000{rank}.safetensors").stat().st_size for rank in (0, 1)]
    assert max(sizes) <= 1.1 * min(sizes), "each rank writes half"
    assert differing(0, tmp_path, dtype) == ([], 3)
    assert together(4, differing, tmp_path, dtype) == [([], 3)] * 4
    assert saved(store_in(tmp_path / "alone"), trained(0, dtype)) == digest


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """A run with checkpoints of steps 2 and 3, written by two ranks."""
    work = tmp_path_factory.mktemp("two")
    together(2, write_two, work)
    return work


def write_two(rank, work):
    store = store_in(work)
    store.latest()
    with store:
        for steps in (2, 3):
            store.save(trained(rank, steps=steps))


@pytest.fixture
def work(of_two, tmp_path):
    return shutil.copytree(of_two, tmp_path / "work")


def remove(newest):
    (newest / "rank-00001.safetensors").unlink()
    return "rank-00001.safetensors is damaged: it is missing although manifest.json lists it"


def cut(newest):
    file = newest / "rank-00001.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    return "rank-00001.safetensors is damaged: it is truncated"


def flip(newest):
    file = newest / "rank-00000.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return "rank-00000.safetensors is damaged: it does not match its hash"


def exchange(newest):
    shutil.copy(newest.with_name("00000002") / "rank-00001.safetensors", newest)
    return "rank-00001.safetensors is damaged: it "


def add(newest):
    shutil.copy(newest / "rank-00001.safetensors", newest / "rank-00002.safetensors")
    return "rank-00002.safetensors is damaged: it is not one of this checkpoint's files"


def unindex(newest):
    (newest / "index.json").write_text("{}")
    return "index.json is damaged"


def unseal(newest):
    (newest / "manifest.json").unlink()
    return "manifest.json is damaged or missing"


@pytest.mark.parametrize("harm", [remove, cut, flip, exchange, add, unindex, unseal])
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_missing_foreign_or_damaged_shard_is_named_and_the_one_before_is_taken(work, harm, ranks):
    words = harm(work / "checkpoints/00000003")
    replies = together(ranks, taken, work) if ranks > 1 else [taken(0, work)]
    for step, notes, same in replies:
        assert (step, same) == (2, True)
        assert f"checkpoints/00000003/{words}" in notes
        assert "looking for an older checkpoint" in notes


def taken(rank, work):
    """Step and notes of what a rank goes on from, and whether it has the weights of that step."""
    store = store_in(work)
    state = loaded(store, trained(rank, steps=0, seed=7))
    return state.step, "".join(store.notes), equal(state.tensors(), trained(rank, steps=state.step).tensors())


def test_a_damaged_checkpoint_does_not_stand_in_the_place_of_a_whole_one(work):
    """The last two that are kept are two to go on from, though the damaged one lies between them."""
    flip(work / "checkpoints/00000003")
    store = store_in(work)
    loaded(store, trained(steps=0, seed=7))
    saved(store, trained(steps=4))
    assert [path.name for path in checkpoints(work / "checkpoints")] == ["00000002", "00000004"]


@pytest.mark.parametrize("ranks", [1, 2])
def test_where_no_checkpoint_is_whole_every_rank_refuses(work, ranks):
    words = [harm(work / "checkpoints" / name) for name, harm in (("00000003", cut), ("00000002", flip))]
    replies = together(ranks, refusal, work) if ranks > 1 else [refusal(0, work)]
    for said in replies:
        assert all(word in said for word in words)
        assert "--fresh" in said


def refusal(rank, work):
    """The error of a rank that finds nothing to go on from."""
    with pytest.raises(CannotResume) as error:
        store_in(work).latest()
    return str(error.value)


@pytest.mark.parametrize(("harm", "step"), [(remove, 2), (cut, 2), (add, 2), (unseal, 2), (flip, 3)])
def test_where_a_training_stands_is_said_by_the_newest_that_looks_whole(work, harm, step):
    """By the sizes of its files, since `make plan` reads none of them; a changed byte is found out by the run."""
    harm(work / "checkpoints/00000003")
    assert position(work).step == step


def test_a_training_without_a_whole_checkpoint_stands_nowhere(work):
    for path in checkpoints(work / "checkpoints"):
        remove(path)
    assert position(work) is None


def apart(rank, works):
    """What a rank is told that does not see the first one's files."""
    store = store_in(works[rank])
    with pytest.raises(UserError) as error:
        store.latest()
    return str(error.value)


def test_a_rank_that_does_not_see_the_first_one_s_files_stops_the_run_and_nothing_is_begun_again(work, tmp_path):
    elsewhere = shutil.copytree(work, tmp_path / "elsewhere")
    shutil.rmtree(elsewhere / "checkpoints/00000003")
    for said in together(2, apart, (work, elsewhere)):
        assert "rank 1 reads other bytes than the first" in said
        assert "elsewhere/checkpoints/00000003/manifest.json is damaged or missing" in said


def test_a_part_that_no_rank_wrote_is_refused_though_its_seal_is_right(work):
    """As where a checkpoint of more ranks was copied without some of its shards and sealed again."""
    newest = work / "checkpoints/00000003"
    index = json.loads((newest / "index.json").read_text())
    name = next(name for name, entry in index["tensors"].items() if entry["chunks"][0]["file"].startswith("rank-00001"))
    index["tensors"][name]["chunks"] = []
    (newest / "index.json").write_text(json.dumps(index))
    digests = {file: digest for file, digest in digests_in(newest).items() if file != "manifest.json"}
    digests["index.json"] = digest_file(newest / "index.json")
    seal(newest, json.loads((newest / "meta.json").read_text()), digests)
    state = trained(steps=0, seed=7)
    before = {key: tensor.clone() for key, tensor in state.tensors().items()}
    with pytest.raises(UserError, match=f"the checkpoint holds only a part of {name}"):
        loaded(store_in(work), state)
    assert equal(state.tensors(), before)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": 64}, r"is of another model: \S+ is \(.*\) there, \(.*\) here"),
        ({"num_hidden_layers": 2}, r"is of another model: \S+ is \(.*\) there, absent here"),
        (None, r"is of another optimizer: optimizer state: \S+ belongs to no weight of this model"),
    ],
)
def test_a_checkpoint_of_another_model_or_optimizer_is_refused_before_anything_changes(work, changes, words):
    model = K2Model(config(**(changes or {})))
    of_adamw = {"is_muon": lambda name, parameter: False} if changes is None else {}
    state = TrainState(model, MuonClip(model, 0.1, tau=0.5, **of_adamw))
    before = {name: tensor.clone() for name, tensor in state.tensors().items()}
    with (work / "history.jsonl").open("a") as file:
        file.write('{"step": 4}\n')  # made since the checkpoint
    files = {path: path.read_bytes() for path in work.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=f"the checkpoint of step 3 in .*checkpoints {words}"):
        loaded(store_in(work), state)
    assert equal(state.tensors(), before)
    assert {path: path.read_bytes() for path in work.rglob("*") if path.is_file()} == files


def refused(rank, work, layout):
    """What a rank is told whose part of a model does not fit the checkpoint."""
    with laid_out(layout):
        model = K2Model(config(), part=mesh().part(config()))
        with pytest.raises(UserError) as error:
            loaded(store_in(work, mesh().grid), TrainState(model, MuonClip(model, 0.02)))
        return str(error.value)


@pytest.mark.parametrize(
    ("layout", "changes", "words"),
    [
        (Layout(ep=2), {"n_routed_experts": 5}, "of another model: .*: axis 0 of a tensor .* does not divide into 2"),
        (Layout(pp=2), {"num_hidden_layers": 4}, r"of another model: layers\.3\S+ is \(.*\) there, absent here"),
    ],
    ids=str,
)
def test_a_checkpoint_that_one_part_of_the_model_does_not_fit_is_refused_by_all_ranks(tmp_path, layout, changes, words):
    model = K2Model(config(**changes))
    saved(store_in(tmp_path), TrainState(model, MuonClip(model, 0.02)))
    first, second = together(2, refused, tmp_path, layout)
    assert re.search(words, first)
    assert first == second


@pytest.fixture
def held_up(monkeypatch):
    """An event without which nothing becomes durable."""
    released, fsync = threading.Event(), os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (released.wait(), fsync(handle))[1])
    yield released
    released.set()


def test_the_training_goes_on_while_a_checkpoint_is_written(tmp_path, held_up):
    store, state = store_in(tmp_path), trained()
    expected = {name: tensor.clone() for name, tensor in state.tensors().items()}
    with store:
        store.save(state)
        with torch.no_grad():
            for tensor in state.tensors().values():
                tensor.zero_()
        assert not (tmp_path / "checkpoints/00000003").exists()
        held_up.set()
    assert equal(loaded(store_in(tmp_path), trained(steps=0)).tensors(), expected)


def test_the_next_save_waits_for_the_one_before(tmp_path, held_up):
    store, states = store_in(tmp_path), [trained(steps=steps) for steps in (1, 2)]
    second = threading.Thread(target=store.save, args=(states[1],))
    with store:
        store.save(states[0])
        second.start()
        assert not list(tmp_path.glob("checkpoints/*00000002*"))
        held_up.set()
        second.join()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["00000001", "00000002"]


@pytest.mark.parametrize("ranks", [1, 2])
def test_an_error_of_writing_names_step_and_path_and_the_next_save_works(tmp_path, ranks):
    replies = together(ranks, blocked, tmp_path) if ranks > 1 else [blocked(0, tmp_path)]
    for said, step in replies:
        assert f"the checkpoint {tmp_path}/checkpoints/00000001 could not be written (rank 0: " in said
        assert "the same command goes on from the checkpoint before" in said
        assert step == 1


def blocked(rank, work):
    """The error of a save whose place is taken by a file; and the step that is read after the place is free."""
    store, state = store_in(work), trained(steps=1)
    store.latest()
    place = work / "checkpoints/.00000001.partial"
    if data.ranks().first:
        place.touch()
    data.from_first(None)
    store.save(state)
    with pytest.raises(UserError) as error:
        store.wait()
    data.from_first(None)
    if data.ranks().first:
        place.unlink()
    data.from_first(None)
    saved(store, state)
    return str(error.value), loaded(store_in(work), trained(steps=0)).step


def test_an_error_of_the_training_is_not_hidden_by_one_of_writing(tmp_path):
    store = store_in(tmp_path)
    store.latest()
    (tmp_path / "checkpoints/.00000001.partial").touch()

    def diverge():
        with store:
            store.save(trained(steps=1))
            raise UserError("diverged")

    with pytest.raises(UserError, match="diverged"):
        diverge()


def test_a_save_holds_the_state_and_one_copy_at_most():
    """Peak resident memory, measured in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.engine.training.save_memory"],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    sizes = json.loads(run.stdout)
    assert sizes["state"] >= 200e6
    assert 0.9 * sizes["state"] <= sizes["save"] <= 1.1 * sizes["state"]


def test_sums_of_pieces_add_up_and_a_changed_or_moved_number_changes_them():
    tensor = torch.randn(6, 4, 10, generator=torch.Generator().manual_seed(1))
    shape = tuple(tensor.shape)
    total = piece_sum(tensor, Piece(shape, (0, 0, 0), shape))
    for axis in range(3):
        parts, start = 0, 0
        for part in tensor.split([1, shape[axis] - 1], axis):
            offsets = tuple(start if each == axis else 0 for each in range(3))
            parts += piece_sum(part.contiguous(), Piece(shape, offsets, tuple(part.shape)))
            start += part.shape[axis]
        assert parts % 2**64 == total
    swapped, negated = tensor.clone(), tensor.clone()
    swapped[0, 0, 0], swapped[5, 3, 9] = tensor[5, 3, 9], tensor[0, 0, 0]
    negated[0] *= -1
    assert len({piece_sum(each, Piece(shape, (0, 0, 0), shape)) for each in (tensor, swapped, negated)}) == 3
