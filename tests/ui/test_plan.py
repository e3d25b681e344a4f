"""The page and `make plan` agree in every state of a stage, however it came about."""

import http.client
import shutil

import pytest

from tests.project import LEDGER
from tests.ui.room import outputs

pytestmark = pytest.mark.slow
RUNS = "    p = Parameters.model_validate(parameters)\n"
CHANGES = "    assert parameters\n"
FAILS = '    raise RuntimeError("out of ink")\n'


def agreed(room):
    """Wait until the page says of every asset what a plan made now says of its stage; return that plan and the marks.

    Dagster's own mark cannot know all that the plan knows, but it must never contradict it: what the plan calls fresh
    is in step, and what was never made is missing.
    """
    plan = room.plan()

    def same():
        marks = room.badges()
        expected = {name: ": ".join(plan[stage]) for name, stage in outputs().items()}
        return all(
            marks[name][1] == (expected[name] if expected[name] != "missing: never run" else "") for name in expected
        )

    def in_step():
        marks = {name: mark for name, (mark, _) in room.badges().items()}
        fresh = all(marks[name] == "FRESH" for name, stage in outputs().items() if plan[stage][0] == "fresh")
        never = [name for name, stage in outputs().items() if plan[stage] == ("missing", "never run")]
        return marks if fresh and all(marks[name] == "MISSING" for name in never) else None

    room.wait(f"the page says {plan}", same)
    room.reload()  # Dagster's mark goes by the code versions that it read when the definitions were loaded
    return plan, room.wait("Dagster's own marks do not contradict it", in_step)


def test_fresh_and_never_run(room):
    plan, marks = agreed(room)
    assert plan["corpus"][0] == plan["tokenization"][0] == "fresh"
    assert plan["evaluate"] == ("missing", "never run")
    assert marks["documents"] == "FRESH"
    assert marks["report"] == "MISSING"


def test_stale_by_code_with_all_that_depends_on_it(room):
    room.project.edit("nodes/rephrase/nodes.py", RUNS, f"{RUNS}{CHANGES}")
    plan, _ = agreed(room)
    assert plan["rephrase"][0] == "stale"
    assert plan["tokenization"] == ("stale", "its input stage rephrase is stale")
    assert room.badges()["rewrites"][0] == "STALE"
    room.project.edit("nodes/rephrase/nodes.py", CHANGES, "")
    plan, _ = agreed(room)
    assert plan["tokenization"][0] == "fresh"


def test_stale_by_input_after_a_run_in_a_shell(room):
    room.project.edit("conf/smoke/parameters/corpus.yml", "sums: 4000", "sums: 3900")
    assert agreed(room)[0]["corpus"][1].endswith("4000 → 3900")
    room.project.repro("-s", f"{LEDGER}:code", f"{LEDGER}:corpus")
    plan, marks = agreed(room)
    assert plan["corpus"][0] == "fresh"
    assert plan["rephrase"] == ("stale", "input documents changed")
    assert marks["rewrites"] == "STALE"


def test_an_output_that_is_gone_and_one_that_is_damaged_come_back(room):
    for harm, word in ((shutil.rmtree, "tools is not there"), (cut, "tools is damaged")):
        harm(room.project.data("tooluse", "tools"))
        state, reason = agreed(room)[0]["tooluse"]
        assert state == "recalled"
        assert reason.startswith("comes back from ")
        assert f", no run: {word}" in reason
        room.project.repro("-s", f"{LEDGER}:code", f"{LEDGER}:tooluse")
        assert agreed(room)[0]["tooluse"][0] == "fresh"


def cut(folder):
    """Cut a file of an artifact short."""
    path = next(path for path in sorted(folder.iterdir()) if path.name != "manifest.json")
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])


def test_failed_in_a_shell_and_on_the_page(room):
    room.project.edit("nodes/rephrase/nodes.py", RUNS, f"{FAILS}{RUNS}")
    process = room.project.run("dvc", "repro", "-s", f"{LEDGER}:code", f"{LEDGER}:rephrase", check=False)
    assert process.returncode
    plan, _ = agreed(room)
    assert plan["rephrase"][0] == "failed"
    assert "out of ink" in plan["rephrase"][1]
    status, steps, messages = room.launch("only_rephrase")
    assert (status, steps) == ("FAILURE", ["rephrase"])
    assert any("stage rephrase failed" in line and "out of ink" in line for line in messages)
    room.project.edit("nodes/rephrase/nodes.py", FAILS, "")


def test_a_run_on_the_page_mends_what_is_selected(room):
    status, steps, messages = room.launch("__ASSET_JOB", ["documents", "corpus_card", "corpus_metrics", *rest(room)])
    assert (status, sorted(steps)) == ("SUCCESS", ["corpus", "rephrase"])
    assert any(line == "Stage 'conf/smoke/dvc.yaml:corpus' didn't change, skipping" for line in messages)
    assert sum("rewrites" in line and "/" in line for line in messages) < 50, "progress is a line every few seconds"
    plan, marks = agreed(room)
    assert plan["rephrase"][0] == "fresh"
    assert marks["rewrites"] == "FRESH"


def rest(room):
    """Return the other outputs of the two stages, since a stage runs whole."""
    named = {"documents", "corpus_card", "corpus_metrics"}
    return [name for name, stage in outputs().items() if stage in ("corpus", "rephrase") and name not in named]


def status(room, **headers):
    """Return the status of a request with these headers."""
    connection = http.client.HTTPConnection("127.0.0.1", room.port, timeout=60)
    connection.request("GET", "/graphql?query=%7Bversion%7D", headers=headers)
    return connection.getresponse().status


def test_the_page_answers_to_names_of_this_machine_and_to_its_own_scripts_alone(room):
    for name in ("127.0.0.1", "localhost"):
        assert status(room, Host=f"{name}:{room.port}", Origin=f"http://{name}:{room.port}") == 200
    for name in ("evil.example", "127.0.0.1.evil.example", "10.0.0.1"):
        assert status(room, Host=f"{name}:{room.port}") == 400
    assert status(room, Origin="http://evil.example") == status(room, Origin="null") == 403
    image = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert status(room, **image) == 403
    assert status(room, **image | {"Sec-Fetch-Mode": "navigate"}) == 200, "a link to the page"
