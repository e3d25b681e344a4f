"""The one exception a user is meant to read, and the warning beside it."""

import sys
from functools import cache

from engine.credentials import masked


class UserError(Exception):
    """Something the user can put right.

    The message is one clear sentence that names the file, the field and the remedy; every command prints
    it alone, without a traceback, and exits 1.
    """

    exit_code = 1

    def __str__(self) -> str:
        """Return the sentence without passwords and keys, since it goes to screens, logs, records and MLflow."""
        return masked(super().__str__())


@cache
def warn(sentence: str) -> None:
    """Print what was passed over, once a process: a file is read by several who ask."""
    print(f"warning: {sentence}", file=sys.stderr, flush=True)
