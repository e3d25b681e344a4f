"""The smoke graph through DVC: which edits make which stages run again, and what comes back from the cache."""

import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.identity import snapshot
from engine.identity.library import Library
from engine.identity.reach import reach
from pipelines.graph import JUDGES, entry_points
from pipelines.stages_file import load_stages_file
from tests.mutation.mutations import neutral
from tests.project import ENVIRONMENT, LEDGER, PROFILE, Project, shim

pytestmark = pytest.mark.slow
STAGES = list(load_stages_file().stages)
AT_IMPORT = "\nif True:\n    pass\n"
"""Does nothing, but as soon as the module is imported, so it counts for whoever imports it."""


@pytest.fixture(scope="module")
def project(whole: Project) -> Project:
    """Return a scratch copy whose smoke graph has been run once, by DVC."""
    return whole


@pytest.fixture
def edited(project: Project) -> Iterator[Project]:
    """Yield the project; afterwards its files are as committed, and every stage is fresh again."""
    yield project
    project.run("git", "checkout", "-q", "--", ".")
    project.repro()


def test_everything_ran_once_and_left_a_record(project: Project) -> None:
    assert project.runs() == dict.fromkeys(STAGES, 1)
    for stage in STAGES:
        record = project.records(stage)[0]
        assert record["outcome"] == "success"
        assert all(record["outputs"].values())
        assert record["metrics"]
        assert not list(project.data(".work", stage).glob("*/")), "finished work is removed"


def test_second_repro_runs_nothing_but_code(project: Project) -> None:
    process = project.repro()
    assert re.findall(r"Running stage '(?:.*:)?(\w+)'", process.stdout) == ["code"]
    assert project.runs() == dict.fromkeys(STAGES, 1)


def test_plan_agrees_with_dvc(project: Project) -> None:
    plan = project.run("python", "-m", "pipelines.commands.plan", "--env", PROFILE).stdout
    assert plan.count("fresh") >= len(STAGES)
    status = json.loads(project.run("dvc", "status", "--json", LEDGER).stdout)
    assert {name.rpartition(":")[2] for name in status} == {"code"}


def test_a_rerun_makes_the_same_bytes(project: Project) -> None:
    before = {stage: project.digests(stage) for stage in ("corpus", "tooluse", "tokenization", "evaluate")}
    for stage, digests in before.items():
        project.repro("-f", "-s", f"{LEDGER}:{stage}")
        assert project.digests(stage) == digests, f"{stage} is not deterministic"


def stages_with_new_code(project: Project) -> set[str]:
    """Refresh the code files; return the stages whose file changed."""
    before = {stage: project.data("code", f"{stage}.json").read_bytes() for stage in STAGES}
    project.run("python", "-m", "pipelines.commands.code", "--env", PROFILE)
    return {stage for stage in STAGES if project.data("code", f"{stage}.json").read_bytes() != before[stage]}


def test_editing_a_file_concerns_exactly_the_stages_that_reach_it(edited: Project) -> None:
    for name in (
        "nodes/rl/objective.py",
        "engine/optim/muonclip.py",
        "engine/text/shards.py",
        "pipelines/stages/sft.py",
        "engine/errors.py",
    ):
        module = name.removesuffix(".py").replace("/", ".")
        want = {stage for stage in STAGES if module in reach(Library(edited.path), entry_points(stage), JUDGES).modules}
        assert want
        edited.append(name, AT_IMPORT)
        assert stages_with_new_code(edited) == want
        edited.run("git", "checkout", "-q", "--", name)
        assert stages_with_new_code(edited) == want
        edited.append(name, "\n# a comment\n_UNUSED = 1\n\n\ndef _unused() -> int:\n    return 1\n")
        assert stages_with_new_code(edited) == set()
        edited.run("git", "checkout", "-q", "--", name)


def test_edits_that_change_nothing_rerun_nothing(edited: Project) -> None:
    """Make one edit of each kind, in modules that most stages reach."""
    names = (
        "engine.model.model",
        "engine.training.loop",
        "engine.text.chat",
        "nodes.corpus.build",
        "nodes.sft.train",
    )
    kinds: set[str] = set()
    for name, random_ in zip(names, map(random.Random, range(len(names)))):
        path = f"{name.replace('.', '/')}.py"
        for kind, mutation in neutral(edited.path, name, path, random_).items():
            if kind not in kinds:
                kinds.add(kind)
                (edited.path / path).write_text(mutation.source)
                break
    before = edited.runs()
    assert stages_with_new_code(edited) == set()
    edited.repro()
    assert edited.ran_since(before) == []


def test_why_names_the_function_and_the_way_to_it(edited: Project) -> None:
    edited.edit("engine/model/rope.py", "1.0 + 0.1 * mscale", "1.0 + 0.2 * mscale")
    process = edited.run("python", "-m", "pipelines.commands.why", "sft", "--env", PROFILE)
    output = " ".join(process.stdout.split())
    assert "base_checkpoint may change, because pretrain is stale" in output
    assert "changed engine/model/rope.py:" in output
    assert max(map(len, process.stdout.splitlines())) <= 100


def test_an_edit_reruns_its_stage_and_stops_where_the_output_is_the_same(edited: Project) -> None:
    before = edited.runs()
    edited.append("nodes/tooluse/goals.py", AT_IMPORT)
    plan = edited.run("python", "-m", "pipelines.commands.plan", "--env", PROFILE).stdout
    assert "nodes.tooluse.goals" in " ".join(plan.split())
    edited.repro()
    assert edited.ran_since(before) == ["tooluse"], (
        "early cutoff: the trajectories are the same, so nothing after them runs"
    )


def test_a_parameter_reruns_its_readers_and_what_depends_on_their_outputs(edited: Project) -> None:
    before = edited.runs()
    edited.append(f"conf/{PROFILE}/parameters/evaluate.yml", "\n")
    text = (edited.path / f"conf/{PROFILE}/parameters/evaluate.yml").read_text()
    seed = re.search(r"seed: (\d+)", (edited.path / "conf/base/parameters/evaluate.yml").read_text())
    assert seed is not None
    (edited.path / f"conf/{PROFILE}/parameters/evaluate.yml").write_text(
        f"{text.rstrip()}\n  seed: {int(seed[1]) + 1}\n"
    )
    plan = " ".join(edited.run("python", "-m", "pipelines.commands.plan", "--env", PROFILE).stdout.split())
    assert "evaluate.seed" in plan
    edited.repro()
    assert edited.ran_since(before) == ["evaluate"]


def test_a_deleted_output_comes_back_without_a_run(project: Project) -> None:
    before, digests = project.runs(), project.digests("sft")
    shutil.rmtree(project.data("sft", "sft_checkpoint"))
    project.repro()
    assert project.ran_since(before) == []
    assert project.digests("sft") == digests


def test_a_changed_output_is_noticed(project: Project) -> None:
    shards = project.data("tokenization", "shards")
    victim = next(path for path in sorted(shards.iterdir()) if path.suffix == ".bin")
    content = victim.read_bytes()
    victim.chmod(0o644)
    victim.write_bytes(content[:-10])
    process = project.run("kedro", "run", "--env", PROFILE, "--pipelines", "pretrain", check=False)
    assert process.returncode == 1
    assert "truncated" in process.stderr
    assert "Traceback" not in process.stderr
    victim.write_bytes(content)


def test_out_of_date_code_file_stops_the_stage(edited: Project) -> None:
    edited.append("nodes/tooluse/goals.py", AT_IMPORT)
    process = edited.run("kedro", "run", "--env", PROFILE, "--pipelines", "tooluse", check=False)
    assert process.returncode == 1
    assert process.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "out of date" in process.stderr


GATE = """    import os

    with open(os.environ["GATE"]):
        pass
"""
"""At the beginning of a node, before it imports what it needs: it waits until somebody has written."""


def test_a_checkout_while_a_stage_runs_in_place_concerns_the_next_run(
    edited: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node's late imports are of the key; if they are not, as when the snapshot is edited, they are refused."""
    before, gate = edited.digests("extend"), tmp_path / "gate"
    git = ("git", "-c", "user.name=t", "-c", "user.email=t@t")
    branch = edited.run(*git, "rev-parse", "--abbrev-ref", "HEAD").stdout.strip()
    edited.run(*git, "checkout", "-qb", "gated")
    edited.edit("nodes/extend/nodes.py", "    import json\n", f"{GATE}    import json\n")
    edited.run(*git, "commit", "-qam", "Wait")
    commit = edited.run(*git, "rev-parse", "HEAD").stdout.strip()
    edited.run("python", "-m", "pipelines.commands.code", "--env", PROFILE)
    os.mkfifo(gate)
    monkeypatch.setitem(edited.environment, "GATE", str(gate))

    def while_it_waits(act: Callable[[], object], *command: str) -> int:
        process = edited.start(*command)
        with gate.open("w"):  # returns when the node has come to it
            act()
        return process.wait(300)

    def change_the_snapshot() -> None:
        (code,) = [
            one for one in (edited.path / "data/.snapshots").iterdir() if snapshot.origin(one)["commit"] == commit
        ]
        path = code / "engine/optim/muon.py"
        path.chmod(0o644)
        path.write_text(path.read_text() + AT_IMPORT)

    assert while_it_waits(change_the_snapshot, "kedro", "run", "--env", PROFILE, "--pipelines", "extend") == 1
    assert "is not what it was when it was taken" in str(edited.records("extend")[-1]["error"])
    assert edited.digests("extend") == before

    def check_out_another() -> None:
        edited.run(*git, "checkout", "-qb", "doubled")
        edited.edit("engine/optim/muon.py", "lr * orthogonalise.scale(n, m)", "2.0 * lr * orthogonalise.scale(n, m)")
        edited.run(*git, "commit", "-qam", "Double it")

    # Edited as soon as the command has begun, before its stage has; checked out when the node waits.
    run = f'exec {shutil.which("kedro")} "$@"'  # in the place of the shell: a stage dies with its parent, which is DVC
    edit = f"echo 'raise SystemExit' >> {edited.path}/engine/model/rope.py\n{run}"
    monkeypatch.setitem(
        edited.environment, "PATH", f"{shim(tmp_path / 'bin', 'kedro', before=edit)}:{ENVIRONMENT['PATH']}"
    )
    shutil.rmtree(edited.data(".work", "extend"))  # all of it is to be trained under the other checkout
    words = ("python", "-m", "pipelines.commands.repro", "--env", PROFILE, "--stage", "extend", "--force")
    assert while_it_waits(check_out_another, *words) == 0
    assert edited.digests("extend") == before
    record = edited.records("extend")[-1]
    assert (record["outcome"], record["commit"], record["dirty"]) == ("success", commit, False)
    plan = " ".join(edited.run("python", "-m", "pipelines.commands.plan", "--env", PROFILE).stdout.split())
    edited.run("git", "checkout", "-q", branch)
    assert "definition engine.model.rope." in plan, "the first of the two edits, and so the stage is stale"


def test_profiles_do_not_touch_each_others_ledgers(project: Project) -> None:
    assert (project.path / f"conf/{PROFILE}/dvc.lock").is_file()
    assert not (project.path / "dvc.lock").exists()
    folders = {path.name for path in (project.path / "data").glob("*/")}
    assert folders & set(load_stages_file().profiles) == {PROFILE}


def test_dvc_lock_names_current_outputs(project: Project, tmp_path: Path) -> None:
    """A fresh copy with the cache gets every artifact by checkout, and then has nothing to run."""
    clone = Project(tmp_path)
    shutil.copy(project.path / f"conf/{PROFILE}/dvc.lock", clone.path / f"conf/{PROFILE}/dvc.lock")
    shutil.copytree(project.path / ".dvc/cache", clone.path / ".dvc/cache")
    clone.run("dvc", "checkout", LEDGER)
    clone.repro()
    stages = load_stages_file().stages
    assert {tuple(record["outcome"] for record in clone.records(stage)) for stage in stages} == {("pulled",)}
    assert clone.digests("evaluate") == project.digests("evaluate")
