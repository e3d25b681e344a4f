"""A toy study end to end: sweeps, branches, results, pages; finished units are not run again."""

import json

import pytest

from engine.errors import UserError
from studies import run
from studies.execute import Bench, execute
from studies.registration import register
from studies.report.write import publish
from studies.store import confirmatory, read_curves, read_results, write_results
from studies.units import arm_units
from tests.nodes import text
from tests.studies.toy import register_at, study

ORIGIN = {
    "commit": "c", "machine": {"processor": "p", "torch": "t"}, "data": "data", "baselines": {"bigram": 5.0},
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("studies")


@pytest.fixture(scope="module")
def shards(home):
    return text.make(home / "text")[1]


@pytest.fixture(scope="module")
def registration(home):
    return register(register_at(home / "repository", study()), "toy")


@pytest.fixture(scope="module")
def done(home, registration, shards):
    return run.run_study(registration, shards, home / "work", ("code", "data"))


def test_all_units_ran_and_their_figures_are_whole(done, registration) -> None:
    assert len(done.runs) == 45
    assert {result["arm"] for result in done.runs if result["failed"] is None} == registration.study.arms.keys() - {
        "wild"
    }
    first = done.runs[0]["figures"]
    assert first["tokens"] == done.runs[0]["steps"] * 2 * 16
    assert 0 < first["loss"] < 10
    assert first["bits_per_byte"] > 0
    assert done.sweeps["rate"]["winner"]["optimizer.lr"] in (0.001, 0.01, 0.02)
    assert done.baselines["bigram"] < done.baselines["unigram"]


def test_seeds_differ_in_their_start_and_their_data(done) -> None:
    runs = [r for r in done.runs if (r["arm"], r["budget"]) == ("without", "1x")]
    assert len({r["figures"]["weights"] for r in runs}) == 5


def test_what_is_done_is_not_run_again(done, home, registration, shards) -> None:
    times = {path: path.stat().st_mtime_ns for path in (home / "work").rglob("result.json")}
    again = run.run_study(registration, shards, home / "work", ("code", "data"))
    assert again.runs == done.runs
    assert {path: path.stat().st_mtime_ns for path in (home / "work").rglob("result.json")} == times


def test_verdict_and_pages(done, home, registration) -> None:
    results = write_results(home / "results", registration, done.runs, done.sweeps, ORIGIN)
    assert confirmatory(results, registration) is None
    page = publish({"toy": registration}, home / "results", home / "docs", "toy")["toy"]
    assert all(outcome.state() == "holds" for outcome in page.judged.outcomes if outcome.criterion.role != "claim")
    assert page.verdict in ("supported", "inconclusive")
    assert page.verdict == "supported" or "edge" in page.reason
    text = (home / "docs" / "toy.md").read_text()
    assert registration.commit in text
    assert "Exploratory" not in text
    assert (home / "docs" / "toy.png").read_bytes().startswith(b"\x89PNG")
    assert "| [toy](toy.md) |" in (home / "docs" / "README.md").read_text()
    assert len(read_curves(home / "results", "toy")) == 40
    again = write_results(home / "results", registration, done.runs, done.sweeps, ORIGIN)
    assert again == results == read_results(home / "results", "toy")


def test_runs_confirm_only_what_was_committed_before_them(done, home, tmp_path, registration) -> None:
    results = write_results(tmp_path / "results", registration, done.runs, done.sweeps, ORIGIN)
    uncommitted = register(register_at(tmp_path / "other", study(), commit=False), "toy")
    assert "not committed" in confirmatory(results, uncommitted)
    changed = study()
    changed["criteria"][1]["within"] = 0.5
    edited = register(register_at(tmp_path / "changed", changed), "toy")
    assert "changed after the runs" in confirmatory(results, edited)
    stray = json.loads(json.dumps(results))
    stray["runs"][3]["registration"]["commit"] = None
    assert "was not committed when" in confirmatory(stray, registration)
    path = home / "repository" / "conf" / "toy.yml"
    before = path.read_text()
    path.write_text(before + "# a word more\n")
    assert register(path.parent, "toy").commit is None
    path.write_text(before)
    assert register(path.parent, "toy").commit == registration.commit


def test_a_run_that_diverges_is_a_result_with_its_reason(done, home, registration) -> None:
    failed = [result for result in done.runs if result["failed"]]
    assert {result["arm"] for result in failed} == {"wild"}
    assert len(failed) == 5
    assert all(result["figures"] == result["curves"] == {} for result in failed)
    write_results(home / "results", registration, done.runs, done.sweeps, ORIGIN)
    publish({"toy": registration}, home / "results", home / "docs", None)
    assert f"wild, seed 1, 1x: {failed[0]['failed'][:20]}" in (home / "docs" / "toy.md").read_text()


def test_another_key_is_another_run(home, registration, done, shards) -> None:
    unit = arm_units(registration.study, {"rate": {"optimizer.lr": 0.01}}, 512)[0]
    old, new = (Bench(shards, home / "work", code, "data", {}) for code in ("code", "edited"))
    assert old.result(unit) is not None
    assert new.result(unit) is None


def test_work_that_cannot_be_gone_on_with_stops_the_study_and_stays(registration, shards, tmp_path) -> None:
    """It says nothing about the arm, so it is no result; and the files may be put right."""
    unit = arm_units(registration.study, {"rate": {"optimizer.lr": 0.01}}, 512)[0]
    bench = Bench(shards, tmp_path, "code", "data", {})
    left = bench.folder(unit) / "run/checkpoints/00000002/meta.json"
    left.parent.mkdir(parents=True)
    left.write_text("{}")
    with pytest.raises(UserError, match="no checkpoint in .* is whole"):
        execute(bench, [unit], "toy", workers=1)
    assert left.exists()
    assert bench.result(unit) is None
