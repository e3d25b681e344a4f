"""Errors at the edge: one that the user can put right is shown as one sentence with exit code 1, not as a traceback."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from engine.errors import UserError
from engine.remedy import completed
from pipelines.output import outlive_readers

_AGAIN = "and run the same command again; earlier artifacts are intact"
_REFUSALS: dict[int, str] = {
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT), "the disc is full while writing {where}: free some space (`make clean` helps)"
    ),
    **dict.fromkeys(
        (errno.EMFILE, errno.ENFILE), "too many files are open, {where} among them: raise the limit (`ulimit -n 4096`)"
    ),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM), "user {uid} may not use {where}: change its owner (`chown -R {uid} {where}`)"
    ),
    **dict.fromkeys(
        (errno.EEXIST, errno.ENOTDIR), "{where}: a file stands where a folder belongs: move it out of the way"
    ),
    **dict.fromkeys((errno.EIO, errno.ESTALE), "{where} cannot be read or written: repair its disc or server"),
    errno.EROFS: "{where} lies on a read-only file system: remount it, or work in a clone elsewhere",
    errno.EISDIR: "{where}: a folder stands where a file belongs: move it out of the way",
    errno.ELOOP: "{where}: its links lead in a circle: remove one",
}
"""The operating system's refusals by number, each as a sentence with its remedy."""
_NAMELESS = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO, errno.EROFS}
"""The refusals that are reported even without a file name; a network's refusals have other numbers."""


def user_error(error: BaseException | None) -> UserError | None:
    """Return the `UserError` in an exception's chain of causes, or None (Kedro wraps what datasets raise)."""
    while error is not None:
        if isinstance(error, UserError):
            return error
        error = error.__cause__ or error.__context__
    return None


def refused_by_system(error: BaseException | None) -> UserError | None:
    """Return an error for a file that the operating system refused somewhere in an exception's chain of causes.

    None for any other exception: a missing file is a defect of ours, or has an error of its own.
    """
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        if "No space left on device" in str(error):  # libraries that write files themselves keep no number
            number = errno.ENOSPC
        where = getattr(error, "filename2", None) or getattr(error, "filename", None)
        if number in _REFUSALS and (where or number in _NAMELESS):
            sentence = _REFUSALS[number].format(where=where or "the data folder", uid=os.geteuid())
            return UserError(f"{sentence} {_AGAIN}.")
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def report_errors(profile: str | None = None) -> Iterator[None]:
    """Print the sentence of a `UserError` and exit with its code; any other exception, a defect, keeps its traceback.

    `profile` completes the commands of the sentence that were written where the profile was not known. An uncaught
    Ctrl-C is no defect either, nor is a reader of the output that has gone.
    """
    outlive_readers()
    try:
        yield
    except KeyboardInterrupt:
        print("stopped by Ctrl-C; the same command goes on.", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        known = user_error(error) or refused_by_system(error)
        if known is None:
            raise
        sentence = completed(str(known), profile) if profile else str(known)
        print(f"error: {sentence}" if known.exit_code == 1 else sentence, file=sys.stderr)
        raise SystemExit(known.exit_code) from None
