"""A process imports from a snapshot and from nothing else, and a snapshot is what its name says or is refused."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import UserError
from engine.identity import snapshot

ROOT = Path(__file__).resolve().parents[3]

LATE = """
import sys
from pathlib import Path
sys.path[:0] = [ROOT, REPOSITORY]
root = Path(ROOT)
import ours.early
before = ours.early.VALUE
from engine.identity import snapshot
code = snapshot.enter(root)
(root / "ours/late.py").write_text("VALUE = 'edited'")
import ours.early, ours.late
import subprocess
child = [sys.executable, "-m", "ours.late"]
(root / "ours/early.py").write_text("VALUE = 'edited'")
print(before, ours.early.VALUE, ours.late.VALUE, ours.early.__file__ == str(code / "ours/early.py"), flush=True)
subprocess.run(child, cwd=root, check=True)
snapshot.check(code)
sys.path.insert(0, ROOT)
del sys.modules["ours.late"], sys.modules["ours"]
import ours.late
try:
    snapshot.check(code)
except Exception as error:
    print(error)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with a package of two modules, a configuration, and what does not belong to the code."""
    made = (tmp_path / "a repository").resolve()
    files = {
        "ours/__init__.py": "",
        "ours/early.py": "VALUE = 'early'",
        "ours/late.py": "VALUE = 'late'\nprint('child', VALUE) if __name__ == '__main__' else None",
        "ours/words.txt": "words",
        "conf/base/catalog.yml": "a: 1",
        "conf/local/secret.yml": "key: secret",
        "conf/smoke/dvc.lock": "schema: '2.0'",
        "dags/__init__.py": "",
        "tests/test_ours.py": "",
        "README.md": "",
        "kedro.yml": "",
    }
    for name, text in files.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(text)
    return made


def commit(root: Path) -> str:
    git = ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@t"]
    for words in (["init", "-q"], ["add", "-Af", "--", ".", ":!data"], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], check=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


def names(code: Path) -> set[str]:
    return {path.relative_to(code).as_posix() for path in code.rglob("*") if path.is_file()}


def test_it_holds_code_and_configuration_alone_and_stays_as_it_is(root: Path) -> None:
    code = snapshot.take(root)
    packages = {"ours/__init__.py", "ours/early.py", "ours/late.py", "ours/words.txt"}
    assert names(code) == {*packages, "conf/base/catalog.yml", "kedro.yml", ".snapshot.json"}
    assert snapshot.take(root) == code
    assert snapshot.root_of(code) == root == snapshot.root_of(root)
    (root / "ours/early.py").write_text("VALUE = 'edited'")
    other = snapshot.take(root)
    assert (other != code, (code / "ours/early.py").read_text()) == (True, "VALUE = 'early'")


def test_the_one_that_a_command_took_is_its_processes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And it alone: where it is not whole, or of another repository, one is taken."""
    code = snapshot.take(root)
    (root / "ours/early.py").write_text("VALUE = 'edited'")
    monkeypatch.setenv(snapshot.GIVEN, str(code))
    assert snapshot.take(root) == code
    for path in (root, code.with_name("gone")):
        monkeypatch.setenv(snapshot.GIVEN, str(path))
        assert (snapshot.take(root) / "ours/early.py").read_text() == "VALUE = 'edited'"


def test_a_snapshot_that_cannot_be_written_is_reported_in_one_sentence(root: Path) -> None:
    (root / "data").write_text("in the way")
    with pytest.raises(UserError, match=r"data/.snapshots cannot be written .* Make data/ a folder that you may write"):
        snapshot.take(root)


def test_late_imports_and_children_have_the_snapshots_code_and_what_has_not_is_refused(root: Path) -> None:
    script = LATE.replace("REPOSITORY", repr(str(ROOT))).replace("ROOT", repr(str(root)))
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    of_process, of_child, refused = done.stdout.splitlines()
    assert of_process == "early early late True"
    assert of_child == "child late"
    assert refused.startswith(f"ours was imported from {root}/ours/__init__.py, not from the snapshot ")


@pytest.mark.parametrize("damage", ["edited", "added", "removed"])
def test_one_that_was_changed_is_refused_and_made_again(root: Path, damage: str) -> None:
    code = snapshot.take(root)
    path = code / ("ours/more.py" if damage == "added" else "ours/early.py")
    path.unlink(missing_ok=True)
    if damage != "removed":
        path.write_text("VALUE = 'other'")
    with pytest.raises(UserError, match="is not what it was when it was taken"):
        snapshot.check(code)
    assert snapshot.take(root) == code
    snapshot.check(code)


def test_it_records_its_commit(root: Path) -> None:
    """By content: whatever is checked out or edited while the files are read, it says what was read."""
    assert snapshot.origin(snapshot.take(root)) == {"commit": None, "dirty": None}
    head = commit(root)
    code = snapshot.take(root)
    (root / "README.md").write_text("an edit that is none of the code's")
    assert snapshot.take(root) == code
    (root / "ours/late.py").write_text("VALUE = 'edited'")
    assert snapshot.origin(code) == {"commit": head, "dirty": False}
    assert snapshot.origin(snapshot.take(root)) == snapshot.origin(root) == {"commit": head, "dirty": True}
    (root / "ours/new.py").write_text("")
    second = commit(root)
    assert snapshot.origin(snapshot.take(root)) == {"commit": second, "dirty": False}
    (root / "ours/new.py").unlink()
    assert snapshot.origin(root) == {"commit": second, "dirty": True}


def test_one_goes_when_no_process_and_no_workspace_has_it(root: Path) -> None:
    take = "import sys; from pathlib import Path; from engine.identity import snapshot; "
    take += "print(snapshot.take(Path(sys.argv[1])), flush=True); sys.stdin.read()"

    def start(text: str) -> tuple["subprocess.Popen[str]", Path]:
        (root / "ours/early.py").write_text(text)
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            [sys.executable, "-c", take, str(root)],
            stdin=pipe,
            stdout=pipe,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert process.stdout
        return process, Path(process.stdout.readline().strip())

    processes, codes = zip(*(start(f"VALUE = {number}") for number in range(3)), strict=True)
    workspace = root / "data/smoke/.work/sft/0123"
    workspace.mkdir(parents=True)
    snapshot.keep_for(workspace, codes[0])
    for process in processes[:2]:
        process.communicate()
    last, code = start("VALUE = 3")
    assert [one.exists() for one in (*codes, code)] == [True, False, True, True]
    assert snapshot.is_kept_for(workspace, codes[0].name)
    shutil.rmtree(workspace)
    for process in (last, processes[2]):
        process.communicate()
    last, code = start("VALUE = 4")
    last.communicate()
    assert list((root / "data/.snapshots").iterdir()) == [code]
