"""At the edge: an error that the user can put right is one sentence and exit code 1, never a traceback."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from engine.errors import UserError
from engine.remedy import completed
from pipelines.output import outlive_readers

FULL = {errno.ENOSPC, errno.EDQUOT}


def user_error(error: BaseException | None) -> UserError | None:
    """The `UserError` in an exception's chain of causes, if there is one (Kedro wraps what datasets raise)."""
    while error is not None:
        if isinstance(error, UserError):
            return error
        error = error.__cause__ or error.__context__
    return None


def full_disc(error: BaseException | None) -> UserError | None:
    """What to say if the disc is full somewhere in an exception's chain of causes."""
    while error is not None:
        if (isinstance(error, OSError) and error.errno in FULL) or "No space left on device" in str(error):
            where = getattr(error, "filename", None) or "the data folder"
            return UserError(
                f"the disc is full while writing {where}: free some space (`make clean` helps) and run the same "
                "command again; earlier artifacts are intact."
            )
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def report_errors(profile: str | None = None) -> Iterator[None]:
    """Print the sentence of a `UserError` and exit with its code; let anything else (a defect) keep its traceback.

    `profile` is named in those of the sentence's commands that come from where nobody knows it. Ctrl-C where nobody has
    a sentence for it is no defect either, nor is a reader of the output that has gone.
    """
    outlive_readers()
    try:
        yield
    except KeyboardInterrupt:
        print("stopped by Ctrl-C; the same command goes on.", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        found = user_error(error) or full_disc(error)
        if found is None:
            raise
        sentence = completed(str(found), profile) if profile else str(found)
        print(f"error: {sentence}" if found.exit_code == 1 else sentence, file=sys.stderr)
        raise SystemExit(found.exit_code) from None
