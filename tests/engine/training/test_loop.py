"""The training loop: history, micro-batches, the guard, and resuming after SIGKILL to the same bits."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine.errors import UserError
from engine.model.model import K2Model
from engine.parallel.layout import Layout
from engine.parallel.mesh import laid_out
from engine.training.journal import Journal
from engine.training.resume import CannotResume, CheckpointStore
from engine.training.saving import Staged
from engine.training.sealed import digests_in, seal
from engine.training.step import _stand_still
from tests.engine.tiny import config
from tests.engine.training.run_tiny import STEPS, digest, run
from tests.processes import await_state

ROOT = Path(__file__).parents[3]


def rows_of(history):
    return [json.loads(line) for line in history.read_text().splitlines()]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    work = tmp_path_factory.mktemp("straight")
    return work, run(work)


def test_a_row_a_step_with_all_telemetry(straight):
    rows = rows_of(straight[1][2])
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    wanted = {"loss", "twice", "lr", "grad_norm", "max_logit", "clipped_heads", "expert_load_max", "expert_load_mean"}
    wanted |= {"spike", "top_max"}
    assert all(wanted <= set(row) for row in rows)
    assert rows[3]["max_logit_heads"][0] != rows[7]["max_logit_heads"][0]
    assert max(map(max, rows[3]["max_logit_heads"])) == pytest.approx(rows[3]["max_logit"], abs=1e-3)
    assert rows[0]["twice"] == pytest.approx(2 * rows[0]["loss"])
    assert "tokens_per_second" in (straight[0] / "timing.jsonl").read_text()


def test_only_the_last_two_checkpoints_are_kept(straight):
    assert sorted(p.name for p in (straight[0] / "checkpoints").iterdir()) == ["00000020", "00000024"]


def test_a_finished_run_is_not_run_again(straight):
    work, result = straight
    before = digest(*result)

    def never(step, row):
        raise AssertionError("a step was taken")

    assert digest(*run(work, after_step=never)) == before


class Killed(Exception):
    pass


def killed_at(work, step, **given):
    def stop(completed, row):
        if completed == step:
            raise Killed

    with pytest.raises(Killed):
        run(work, after_step=stop, **given)


@pytest.mark.parametrize("step", [3, 13, 20])
def test_an_interrupted_run_ends_in_the_same_bits(straight, tmp_path, step):
    killed_at(tmp_path, step)
    assert digest(*run(tmp_path)) == digest(*straight[1])


def test_rows_after_the_checkpoint_are_cut_off_and_garbage_too(straight, tmp_path):
    killed_at(tmp_path, 13)
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"step": 99, "lo')
    assert digest(*run(tmp_path)) == digest(*straight[1])


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(straight, tmp_path, capfd):
    killed_at(tmp_path, 18)
    state = tmp_path / "checkpoints" / "00000015" / "rank-00000.safetensors"
    state.write_bytes(state.read_bytes()[:-7] + b"damaged")
    taken = []
    result = run(tmp_path, after_step=lambda step, row: taken.append(step))
    assert taken[0] == 11
    assert digest(*result) == digest(*straight[1])
    assert f"WARNING: {state} is damaged" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["meta.json", "rank-00000.safetensors", "manifest.json", "history.jsonl"])
def test_where_every_checkpoint_is_damaged_the_run_stops_and_names_them_all(straight, tmp_path, name):
    """What took hours is not dropped unasked: whoever has the files elsewhere puts them back, and the run goes on."""
    killed_at(tmp_path, 13)
    whole = {path: path.read_bytes() for path in tmp_path.rglob(name)}
    for path, content in whole.items():
        path.write_bytes(content[1:])
    left = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(
        CannotResume, match=r"no checkpoint in .* is whole: .*start the stage afresh \(--fresh\)"
    ) as error:
        run(tmp_path)
    assert all(f"{path} is damaged" in str(error.value) for path in whole)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == left
    for path, content in whole.items():
        path.write_bytes(content)
    assert digest(*run(tmp_path)) == digest(*straight[1])
    assert summary_in(tmp_path)["resumed_at"] == 10


def test_a_checkpoint_that_cannot_be_written_stops_the_training_before_the_next_one(tmp_path, monkeypatch):
    stores, taken = [], []
    init = CheckpointStore.__init__
    monkeypatch.setattr(CheckpointStore, "__init__", lambda self, *given: (init(self, *given), stores.append(self))[0])

    def full(self, partial, group):
        raise UserError("the disk is full")

    def after_step(step, row):
        taken.append(step)
        if step == 6:
            await_state(lambda: stores[0]._pending.failed)

    monkeypatch.setattr(Staged, "write", full)
    with pytest.raises(UserError, match="the disk is full"):
        run(tmp_path, after_step=after_step)
    assert taken == [1, 2, 3, 4, 5, 6]


def test_sigkill_and_resume_end_in_the_same_bits(straight, tmp_path):
    command = [sys.executable, "-m", "tests.engine.training.run_tiny", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    await_state((tmp_path / "checkpoints" / "00000010").exists, process.poll)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    taken = []
    result = run(tmp_path, after_step=lambda step, row: taken.append(step))
    assert 10 < taken[0] <= STEPS
    assert digest(*result) == digest(*straight[1])


def test_other_numerics_are_refused_at_resume(tmp_path):
    killed_at(tmp_path, 8)
    with pytest.raises(UserError, match="threads"):
        run(tmp_path, threads=2)
    torch.set_num_threads(1)


def test_micro_batches_give_the_gradient_of_the_whole_batch(straight, tmp_path):
    rows = rows_of(run(tmp_path, steps=2, micro_batches=4)[2])
    whole = rows_of(straight[1][2])
    for name in ("loss", "grad_norm", "max_logit"):
        assert rows[0][name] == pytest.approx(whole[0][name], rel=1e-4)


def test_a_batch_that_does_not_split_is_refused(tmp_path):
    with pytest.raises(UserError, match="micro-batches"):
        run(tmp_path, steps=1, micro_batches=3)


def test_a_loss_that_is_no_number_stops_with_its_step_and_keeps_the_checkpoint(tmp_path):
    with pytest.raises(UserError, match="at step 2; lower the learning rate"):
        run(tmp_path, lr=1e30)
    assert not list((tmp_path / "checkpoints").iterdir())
    shutil.rmtree(tmp_path / "checkpoints")


def summary_in(work):
    return json.loads((work / "training.json").read_text())


def state_digest(work):
    return summary_in(work)["state_digest"]


def test_the_end_is_named_by_a_digest_of_weights_and_optimizer(straight, tmp_path):
    run(tmp_path)
    assert state_digest(tmp_path) == state_digest(straight[0])
    assert state_digest(tmp_path) == json.loads((tmp_path / "checkpoints/00000024/meta.json").read_text())["digest"]
    assert (summary_in(tmp_path)["resumed_at"], summary_in(tmp_path)["worlds"]) == (0, [[0, 1, ""]])
    before = state_digest(tmp_path)
    (tmp_path / "training.json").unlink()
    run(tmp_path)  # killed between the last checkpoint and the end
    assert state_digest(tmp_path) == before
    assert summary_in(tmp_path)["resumed_at"] == STEPS
    run(tmp_path / "other", steps=23)
    assert state_digest(tmp_path / "other") != before


def test_a_heartbeat_says_how_far_it_is(straight):
    assert json.loads((straight[0] / "heartbeat.json").read_text())["step"] == STEPS


SPIKE = {"spoil": {57: 40.0}, "steps": 64}


@pytest.fixture(scope="module")
def spiked(tmp_path_factory):
    return run(tmp_path_factory.mktemp("spiked"), skip_spikes=True, **SPIKE)


@pytest.fixture(scope="module")
def before_spike(tmp_path_factory):
    """A run killed with a checkpoint after step 50."""
    work = tmp_path_factory.mktemp("before") / "work"
    killed_at(work, 51, **SPIKE)
    return work


@pytest.fixture
def at_50(before_spike, tmp_path):
    return shutil.copytree(before_spike, tmp_path / "work")


def test_a_spike_is_marked_and_by_default_taken(at_50, capfd):
    rows = rows_of(run(at_50, **SPIKE)[2])
    assert [row["step"] for row in rows if row["spike"]] == [58]
    assert "skipped" not in rows[57]
    assert capfd.readouterr().err.count("is a spike") == 1


def test_a_skipped_spike_moves_nothing_but_forgets_its_logits(at_50, capfd):
    seen = {}

    def look(step, model):
        seen[step] = [tensor.clone() for tensor in model.state_dict().values()]
        assert all((attention.max_logit_H == float("-inf")).all() for attention in model.attentions())

    rows = rows_of(run(at_50, watch=look, skip_spikes=True, **SPIKE)[2])
    assert [row["step"] for row in rows if row.get("skipped")] == [58]
    assert rows[57]["max_logit"] > 0
    assert all(torch.equal(a, b) for a, b in zip(seen[57], seen[58]))
    assert not all(torch.equal(a, b) for a, b in zip(seen[58], seen[59]))
    assert "the step is skipped" in capfd.readouterr().err


@pytest.mark.parametrize("step", [56, 58, 62])
def test_a_spike_is_seen_alike_after_a_resume(spiked, at_50, step):
    killed_at(at_50, step, skip_spikes=True, **SPIKE)
    assert digest(*run(at_50, skip_spikes=True, **SPIKE)) == digest(*spiked)


def test_non_finite_steps_are_skipped_counted_and_in_the_end_stop(tmp_path):
    spoil = {3: float("nan"), 8: float("inf"), 9: float("nan")}
    model, _, history = run(tmp_path / "a", spoil=spoil, nonfinite_steps=3)
    rows = rows_of(history)
    assert [row["step"] for row in rows if row.get("nonfinite")] == [4, 9, 10]
    assert [row["step"] for row in rows if row.get("skipped")] == [4, 9, 10]
    assert "loss" not in rows[3]
    assert all(p.isfinite().all() for p in model.parameters())
    killed_at(tmp_path / "b", 9, spoil=spoil, nonfinite_steps=3)
    resumed = run(tmp_path / "b", spoil=spoil, nonfinite_steps=3)
    assert digest(*resumed) == digest(*run(tmp_path / "a", spoil=spoil, nonfinite_steps=3))
    with pytest.raises(UserError, match="at step 10, 2 such steps in a row"):
        run(tmp_path / "c", spoil=spoil, nonfinite_steps=2)


def test_another_number_of_ranks_is_allowed_and_said(straight, tmp_path, capfd):
    killed_at(tmp_path, 13)
    # the first as before layouts were recorded
    rewrite(tmp_path / "checkpoints/00000010", worlds=[[0, 2], [5, 4, ""]])
    assert digest(*run(tmp_path)) == digest(*straight[1])
    assert summary_in(tmp_path)["worlds"] == [[0, 2, ""], [5, 4, ""], [10, 1, ""]]
    assert summary_in(tmp_path)["resumed_at"] == 10
    last = json.loads((tmp_path / "checkpoints/00000024/meta.json").read_text())
    assert last["worlds"] == [[0, 2, ""], [5, 4, ""], [10, 1, ""]]
    said = capfd.readouterr().err
    assert said.count("WARNING") == 1
    assert "begun with 4 processes and resumed at step 10 with 1" in said


@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_largest_figure_that_is_no_number_in_one_micro_batch_is_none_in_the_row(tmp_path, place):
    """And JSON, which has no NaN, does without it."""
    history = run(tmp_path, steps=1, micro_batches=4, top=lambda n: float("nan") if n == place else 7.0)[2]
    assert "top_max" not in rows_of(history)[0]
    assert "NaN" not in history.read_text()


def test_a_logit_that_is_no_number_is_seen_on_a_skipped_step_too():
    model = K2Model(config())
    for attention, largest in zip(model.attentions(), (3.0, float("nan"), 5.0)):
        attention.max_logit_H.fill_(largest)
    assert math.isnan(_stand_still(model)["max_logit"])


def test_rows_hold_no_infinity_even_where_no_logit_was_seen(tmp_path):
    with Journal(tmp_path, "tiny", 1, 0, speaks=True) as journal:
        row = {"step": 1, "loss": 2.0, "max_logit": -math.inf, "max_logit_heads": [[1.0, -math.inf]]}
        journal.write(row, 1)
    assert rows_of(tmp_path / "history.jsonl") == [{"step": 1, "loss": 2.0}]


def rewrite(checkpoint, **changes):
    """Have a checkpoint say something else of itself, sealed as if it had been written so."""
    digests = digests_in(checkpoint)
    meta = json.loads((checkpoint / "meta.json").read_bytes())
    seal(checkpoint, meta | changes, digests)


def under(checkpoint, **numerics):
    """Have a checkpoint tell that it was made under other numerics."""
    meta = json.loads((checkpoint / "meta.json").read_bytes())
    rewrite(checkpoint, fingerprint=meta["fingerprint"] | numerics)


@pytest.fixture
def at_20(straight, tmp_path):
    """The straight run as it stood after step 20."""
    work = shutil.copytree(straight[0], tmp_path / "pretrain" / "key")
    shutil.rmtree(work / "checkpoints" / f"{STEPS:08d}")
    (work / "training.json").unlink()
    return work


def test_another_torch_or_processor_is_refused_with_the_word_that_allows_it(at_20, monkeypatch, capfd):
    monkeypatch.delenv("K2_RESUME", raising=False)
    work = shutil.move(at_20, at_20.parents[1] / "data" / "smoke" / ".work" / "pretrain" / "key")
    under(Path(work) / "checkpoints/00000020", torch="1.0", processor="another")
    with pytest.raises(UserError, match=r"another processor \(another, now .*\), torch \(1\.0, now .*") as refusal:
        run(Path(work))
    assert "`make repro STAGE=pretrain RESUME=close PROFILE=smoke`" in str(refusal.value)
    monkeypatch.setenv("K2_RESUME", "close")
    run(Path(work))
    (event,) = summary_in(Path(work))["past"]
    assert event["step"] == 20
    assert event["changed"]["torch"] == ["1.0", torch.__version__]
    assert "WARNING: its end need not be that of an undisturbed training" in capfd.readouterr().err
    monkeypatch.delenv("K2_RESUME")
    run(Path(work))  # made under today's since
    assert summary_in(Path(work))["past"] == [event], "it is not forgotten"


@pytest.mark.parametrize("before", [False, True])
def test_fp8_storage_is_neither_begun_nor_ended_half_way(at_20, before):
    if before:
        under(at_20 / "checkpoints/00000020", fp8_storage="on")
    words = r"\(on, now none\)" if before else r"\(none, now on\)"
    with (
        laid_out(Layout(fp8_storage=not before)),
        pytest.raises(UserError, match=f"another fp8_storage {words}.* restore the field layout.fp8_storage of"),
    ):
        run(at_20)


@pytest.mark.parametrize("numerics", [{"threads": 7}, {"dtype": "bfloat16"}, {"device": "NVIDIA H800"}])
def test_the_word_does_not_allow_other_parameters_or_another_kind_of_device(at_20, monkeypatch, numerics):
    monkeypatch.setenv("K2_RESUME", "close")
    under(at_20 / "checkpoints/00000020", **numerics)
    with pytest.raises(UserError, match=f"another {next(iter(numerics))}") as refusal:
        run(at_20)
    assert "RESUME" not in str(refusal.value)


def test_an_unknown_word_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("K2_RESUME", "almost")
    with pytest.raises(UserError, match="K2_RESUME=almost is unknown"):
        run(tmp_path)


def test_a_schedule_shorter_than_the_training_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match="tiny: the phases of the schedule add up to 100 steps, but 101 are to be"):
        run(tmp_path / "work", steps=101)
    assert not (tmp_path / "work").exists()
