"""The benchmarks' rows, verdicts and command line."""

import argparse
import json
import math

import pytest

from benchmarks import rl
from benchmarks.__main__ import main
from benchmarks.dense import plan
from benchmarks.report import Report, Row
from engine.errors import UserError


def result(gain, low=None, high=None):
    low, high = gain - 0.03 if low is None else low, gain + 0.03 if high is None else high
    return {
        "reward_before": 0.4, "reward_after": 0.4 + gain, "reward_gain": gain,
        "reward_gain_low": low, "reward_gain_high": high, "cpu_seconds": 100.0,
    }  # fmt: skip


def report(gains):
    results = {(seed, arm): result(gain if arm == "rl" else 0.0) for seed, gain in enumerate(gains) for arm in rl.ARMS}
    return rl.summarise(list(range(len(gains))), results, {})


def test_median_and_no_significant_loss_are_required():
    assert report([0.06, 0.10, 0.05, -0.02, 0.2]).ok
    assert not report([0.04, 0.04, 0.04, 0.2, 0.2]).ok
    assert not report([0.10, 0.10, 0.10, -0.04, 0.2]).ok


def test_json_has_the_agreed_fields(tmp_path):
    made = report([0.06])
    made.write(tmp_path / "rl.json")
    result = json.loads((tmp_path / "rl.json").read_text())
    assert list(result) == ["commit", "machine", "settings", "rows"]
    fields = {"case", "value", "unit", "baseline", "baseline_value", "ratio", "target", "ok"}
    assert all(set(row) == fields for row in result["rows"])
    made.show()


def test_a_row_over_a_zero_baseline_has_no_ratio():
    assert Row("case", 1.0, "s", "nothing", 0.0).ratio is None
    assert Report({}, [Row("case", 1.0, "s", "nothing", 0.0)]).ok


@pytest.mark.parametrize("figures", [(math.inf, 1.0), (-math.inf, 1.0), (math.nan, 1.0), (1.0, math.inf)])
def test_what_is_not_finite_meets_no_target_and_is_null_in_json(tmp_path, figures):
    row = Row("case", figures[0], "s", "base", figures[1], "at most 5", ok=True)
    report = Report({"by_seed": [figures]}, [row])
    assert not report.ok
    report.write(tmp_path / "x.json")
    assert None in json.loads((tmp_path / "x.json").read_text())["settings"]["by_seed"][0]
    assert Row("case", figures[0], "s", "base", figures[1]).ok is None


def test_a_rate_whose_loss_is_not_finite_does_not_win():
    runs = [
        {"rate": rate, "nats_per_token": loss, "model": "k2"} for rate, loss in zip(plan.RATES, (3.0, 2.0, math.nan))
    ]
    runs += [{"rate": rate, "nats_per_token": -math.inf, "model": "k2"} for rate in plan.RATES[3:]]
    assert plan.best_rate(runs) == plan.RATES[1]
    with pytest.raises(UserError, match="no rate of k2 ends in a finite loss"):
        plan.best_rate([{**run, "nats_per_token": math.nan} for run in runs])


def test_list_names_the_benchmarks(capsys):
    assert main(["--list"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["control", "dense", "muonclip", "trainer", "rl", "sm90", "scale"]


def test_missing_inputs_are_named(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["rl"]) == 1
    assert "data/laptop/tokenization/tokenizer does not exist" in capsys.readouterr().err


def test_profiles_merge_deeply(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for environment, text in (("base", "rl: {a: 1, ptx: {b: 2, c: 3}}"), ("laptop", "rl: {ptx: {c: 4}}")):
        folder = tmp_path / "conf" / environment / "parameters"
        folder.mkdir(parents=True)
        (folder / "rl.yml").write_text(text)
    assert rl.stage_parameters("rl", "laptop") == {"a": 1, "ptx": {"b": 2, "c": 4}}


def test_arms_are_done_in_pieces_and_never_twice(tmp_path, monkeypatch):
    inputs = {name: tmp_path / name for name in ("tokenizer", "checkpoint", "examples", "shards", "tasks")}
    for path in inputs.values():
        path.mkdir()
    (inputs["checkpoint"] / "model.safetensors").write_bytes(b"weights")
    done = []

    def arm(self, seed, name, folder=None):
        if folder is not None:
            assert not list(folder.iterdir())
        done.append((seed, name))
        return result(0.1)

    monkeypatch.setattr(rl.Bench, "_rl", arm)
    monkeypatch.setattr(rl.Bench, "_further_sft", lambda self, seed, folder: arm(self, seed, "sft"))
    arguments = argparse.Namespace(
        profile="laptop", work=tmp_path / "work", seeds=[1, 2], units=4, tool_samples=1, **inputs
    )
    stale = tmp_path / "work" / "1-rl" / "run" / "half"
    stale.mkdir(parents=True)
    assert rl.run(arguments) is None
    assert rl.run(arguments) is not None
    assert done == [(seed, name) for seed in (1, 2) for name in rl.ARMS]
    (inputs["checkpoint"] / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(UserError, match="another checkpoint"):
        rl.run(arguments)
