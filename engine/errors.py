"""The exception whose message a user is meant to read, and a warning function."""

import sys
from functools import cache

from engine.credentials import masked


class UserError(Exception):
    """An error that the user can fix.

    The message is one clear sentence that names the file, the field and the remedy; every command prints it alone,
    without a traceback, and exits with code 1.
    """

    exit_code = 1

    def __str__(self) -> str:
        """Return the message without passwords and keys, since it goes to screens, logs, records and MLflow."""
        return masked(super().__str__())


@cache
def warn(sentence: str) -> None:
    """Print a warning once per process, even if several callers read the same file."""
    print(f"warning: {sentence}", file=sys.stderr, flush=True)
