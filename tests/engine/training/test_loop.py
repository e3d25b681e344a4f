"""The training loop: history, micro-batches, the guard, and resuming after SIGKILL to the same bits."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from engine.errors import UserError
from tests.engine.training.run_tiny import STEPS, digest, run

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


def killed_at(work, step):
    def stop(completed, row):
        if completed == step:
            raise Killed

    with pytest.raises(Killed):
        run(work, after_step=stop)


@pytest.mark.parametrize("step", [3, 13, 20])
def test_an_interrupted_run_ends_in_the_same_bits(straight, tmp_path, step):
    killed_at(tmp_path, step)
    assert digest(*run(tmp_path)) == digest(*straight[1])


def test_rows_after_the_checkpoint_are_cut_off_and_garbage_too(straight, tmp_path):
    killed_at(tmp_path, 13)
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"step": 99, "lo')
    assert digest(*run(tmp_path)) == digest(*straight[1])


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(straight, tmp_path):
    killed_at(tmp_path, 18)
    state = tmp_path / "checkpoints" / "00000015" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-7] + b"damaged")
    taken = []
    result = run(tmp_path, after_step=lambda step, row: taken.append(step))
    assert taken[0] == 11
    assert digest(*result) == digest(*straight[1])


def test_sigkill_and_resume_end_in_the_same_bits(straight, tmp_path):
    command = [sys.executable, "-m", "tests.engine.training.run_tiny", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 100
    while not (tmp_path / "checkpoints" / "00000010").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
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
