"""The operating system's refusals become sentences with a remedy; all refusals here are real."""

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from engine.artifacts.files import publish, write_atomic
from engine.errors import UserError
from engine.launch.lifetime import lock
from pipelines.errors import refused_by_system, report_errors


def below_a_file(tmp: Path) -> None:
    (tmp / "data").write_text("")
    write_atomic(tmp / "data/smoke/code/corpus.json", b"{}")


def a_lock_below_a_file(tmp: Path) -> None:
    (tmp / ".work").write_text("")
    lock(tmp / ".work/sft/lock", "stage sft")


def in_the_place_of_a_folder(tmp: Path) -> None:
    (tmp / "records").write_text("")
    (tmp / "records").mkdir(parents=True, exist_ok=True)


def onto_a_folder(tmp: Path) -> None:
    (tmp / "metrics.json").mkdir()
    write_atomic(tmp / "metrics.json", b"{}")


def in_a_circle(tmp: Path) -> None:
    (tmp / "a").symlink_to("b")
    (tmp / "b").symlink_to("a")
    (tmp / "a/x").write_text("")


def not_ours(tmp: Path) -> None:
    Path("/proc/sys/kernel/ostype").write_text("")


def too_many(tmp: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 8, hard))
    try:
        with ExitStack() as stack:
            for number in range(100):
                stack.enter_context((tmp / f"{number}").open("w"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def full(tmp: Path) -> None:
    with open("/dev/full", "w") as file:
        file.write("x" * 10_000)
        file.flush()


def published_below_a_file(tmp: Path) -> None:
    (tmp / "made").mkdir()
    (tmp / "made/a").write_text("")
    (tmp / "corpus").write_text("")
    publish(tmp / "made", tmp / "corpus/documents")


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (below_a_file, ["data", "a file stands where a folder belongs"]),
        (a_lock_below_a_file, [".work", "a file stands where a folder belongs"]),
        (in_the_place_of_a_folder, ["records", "a file stands where a folder belongs"]),
        (published_below_a_file, ["corpus", "a file stands where a folder belongs"]),
        (onto_a_folder, ["metrics.json", "a folder stands where a file belongs"]),
        (in_a_circle, ["a/x", "circle"]),
        (not_ours, ["/proc/sys/kernel/ostype", f"`chown -R {os.geteuid()} /proc/sys/kernel/ostype`"]),
        (too_many, ["too many files", "`ulimit -n"]),
        (full, ["the disc is full", "`make clean`"]),
    ],
)
def test_a_refusal_is_a_sentence(tmp_path: Path, act: Callable[[Path], None], words: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as ended, report_errors(), wrapped():
        act(tmp_path)
    assert ended.value.code == 1
    output = capsys.readouterr().err
    assert output.startswith("error: ")
    assert output.count("\n") == 1
    for word in (*words, "run the same command again"):
        assert word in output


@contextmanager
def wrapped() -> Iterator[None]:
    """Wrap an error as Kedro wraps those of datasets."""
    try:
        yield
    except OSError as error:
        raise RuntimeError("Failed while saving data") from error


def test_a_read_only_file_system_is_a_sentence() -> None:
    error = OSError(errno.EROFS, os.strerror(errno.EROFS), "/r/data/smoke/.work/sft/lock")
    assert "/r/data/smoke/.work/sft/lock lies on a read-only file system" in str(refused_by_system(error))


DEFECTS = (FileNotFoundError(errno.ENOENT, "gone", "x"), ConnectionRefusedError(errno.ECONNREFUSED, "no"), KeyError())


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_keeps_its_traceback(defect: Exception) -> None:
    assert refused_by_system(defect) is None
    with pytest.raises(type(defect)), report_errors():
        raise defect
    assert not isinstance(defect, UserError)
