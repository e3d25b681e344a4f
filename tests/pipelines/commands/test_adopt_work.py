"""Adopted work: verified, resumed under today's key, on record; work that does not fit changes nothing."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.artifacts.files import canonical_json, write_atomic
from engine.errors import UserError
from engine.identity import records
from engine.identity.fingerprint import KINDS
from engine.identity.key import flatten, stage_key
from engine.launch.lifetime import lock
from engine.model.checkpoint import save_checkpoint
from engine.model.model import K2Model
from engine.training.journal import HISTORY, TRAINING
from engine.training.position import position, sentences
from pipelines import code_files, graph, status
from pipelines.commands import adopt_work, work
from tests.engine.tiny import config
from tests.engine.training.run_tiny import run
from tests.runs import Runs, publish

PROFILE, STAGE, STEP = "smoke", "extend", 5
OTHER = "0123456789abcdef"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train, and stop after five of the steps that the key would have trained."""
    folder = tmp_path_factory.mktemp("trained")
    run(folder, steps=STEP)
    (folder / TRAINING).unlink()
    with (folder / HISTORY).open("a") as file:
        file.write('{"step": 6}\n')  # made since its checkpoint
    return folder


@pytest.fixture
def place(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the stage works, with that training under another key, in a scratch repository whose inputs are there."""
    Runs(tmp_path, monkeypatch)
    made_of = {"code": {kind: {} for kind in KINDS}, "parameters": {STAGE: graph.parameters(PROFILE)[STAGE]}}
    monkeypatch.setattr(code_files, "stage_file", lambda *words: made_of)  # the working tree is not there
    monkeypatch.setattr(code_files, "write_files", lambda profile: None)
    for name in ("tokenizer", "shards"):
        publish(PROFILE, "tokenization", name, {})
    save_checkpoint(tmp_path / "base", K2Model(config(), seed=1), {})
    graph.dataset(PROFILE, "base_checkpoint").save(tmp_path / "base")
    folder = graph.work_folder(PROFILE) / STAGE
    shutil.copytree(trained, folder / OTHER)
    parts = code_files.key_parts(STAGE, PROFILE)
    parameters = flatten(parts["parameters"]) | {"extend.batch_size": 17}
    begun = {"parts": {**parts, "parameters": parameters}, "started": records.now(), "key": OTHER, "stage": STAGE}
    write_atomic(folder / OTHER / records.BEGUN, canonical_json(begun))
    return folder


def today() -> str:
    return stage_key(**code_files.key_parts(STAGE, PROFILE))


def changed() -> str:
    """Return the difference between the other key's batch size and today's, as a sentence shows it."""
    return f"parameter extend.batch_size: 17 → {graph.parameters(PROFILE)[STAGE]['batch_size']}"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_work_goes_on_under_todays_key_with_its_origin_on_record(place: Path) -> None:
    before = contents(place / OTHER)
    sentence = adopt_work.adopt_work(PROFILE, STAGE, OTHER[:4])
    assert changed() in sentence
    assert "`make repro STAGE=extend PROFILE=smoke`" in sentence
    assert contents(place / OTHER) == before, "the other key's work stays"
    mine = place / today()
    reached = position(mine)
    assert reached is not None
    assert (reached.step, sentences(reached.past)) == (STEP, f"adopted work of key {OTHER} at step {STEP}")
    assert [json.loads(row)["step"] for row in (mine / HISTORY).read_text().splitlines()] == [1, 2, 3, 4, 5]
    assert f"adopted work of key {OTHER}" in status._paused(PROFILE, STAGE, today(), [])
    assert [unfinished.step for unfinished in work.unfinished(PROFILE, STAGE)] == ["5", "5/5"]

    run(mine, steps=STEP + 2, dtype="bfloat16")  # a parameter may differ, too: the event names it
    past = json.loads((mine / TRAINING).read_bytes())["past"]
    assert sentences(past) == (
        f"adopted work of key {OTHER} at step {STEP}; resumed at step {STEP} with another dtype (float32 → bfloat16)"
    )
    origin = {"work": OTHER, "step": STEP, "differs": [changed()]}
    assert records.adopted_work(past) == {"origin": origin}
    earlier = {"path": Path("x.json"), "warning": sentences(past), "origin": origin}
    back = records.recalled(earlier)
    assert (back["warning"], back["origin"]) == (sentences(past), {**origin, "record": "x.json"})


def spoilt(place: Path) -> None:
    state = place / OTHER / "checkpoints" / f"{STEP:08d}" / "rank-00000.safetensors"
    state.write_bytes(state.read_bytes()[:-1] + b"?")


def another_model(place: Path) -> None:
    base = place.parents[1] / "another"
    save_checkpoint(base, K2Model(config(hidden_size=48), seed=1), {})
    graph.dataset(PROFILE, "base_checkpoint").save(base)


def own_work(place: Path) -> None:
    shutil.copytree(place / OTHER, place / today())


def made_before(place: Path) -> None:
    record: dict[str, Any] = {"stage": STAGE, "key": today(), "outcome": "success", "parts": {}, "outputs": {}}
    record |= {"metrics": {}, "node_seconds": {}, "seconds": 1.0, "started": records.now(), "finished": records.now()}
    records.write_record(graph.runs_folder(PROFILE, STAGE), record)


def too_far(place: Path) -> None:
    shutil.rmtree(place / OTHER)
    run(place / OTHER, steps=7)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (spoilt, "holds no whole checkpoint"),
        (another_model, r"00000005 is of another model: embed_tokens.weight is \(61, 32\) there, \(61, 48\) here"),
        (own_work, "has work of its own under today's key, at 5 of 5"),
        (made_before, "was made under today's key .* before"),
        (too_far, "the work is at step 7, but stage extend trains 6 steps today"),
        (lambda place: shutil.move(place / OTHER, place / today()), "has no unfinished work under a key 0123"),
    ],
)
def test_what_cannot_go_on_is_refused_in_a_sentence_and_nothing_changes(place: Path, change: Any, words: str) -> None:
    change(place)
    before = contents(place)
    with pytest.raises(UserError, match=words):
        adopt_work.adopt_work(PROFILE, STAGE, OTHER)
    after = contents(place)
    after.pop("lock", None)
    before.pop("lock", None)
    assert after == before


def test_a_stage_that_runs_is_left_alone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adopt_work, "lock", lambda path, name: lock(path, name, patience=0))
    with lock(place / "lock", "it"), pytest.raises(UserError, match="is already running"):
        adopt_work.adopt_work(PROFILE, STAGE, OTHER)
