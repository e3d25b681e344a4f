"""Read passwords, keys and tokens, and mask them in text that may contain one.

Secrets come from the environment or from a file, on the machine that needs them; parameters, compute classes, records
and messages never contain one.
"""

import os
import re
from pathlib import Path

MASK = "***"
FILE = "_FILE"
"""Suffix of a variable's name when the variable holds the path of a file with the secret."""
_PASSWORD = re.compile(r"""(\w://)(?!\[|[^\s'"/@:]*:\d+(?:[/?#\s'"]|$))[^\s'"/@:]*:[^\s'"]*@""")
_TOKEN = re.compile(r"""(https?://)[^\s'"/@:?#]+@""", re.IGNORECASE)
_QUERY = re.compile(
    r"""([?&;][^\s'"=&;]*(?:token|key|secret|passw|pwd|signature|credential|\bsig)[^\s'"=&;]*=)[^\s'"&;#]+""",
    re.IGNORECASE,
)
_ASSIGNED = re.compile(
    r"""\b([A-Z0-9_]*(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|PWD)(?:['"]?=|['"]:\s*)['"]?)(?!['"]?[$`])[^\s'",;&}]+"""
)
_SECRET_NAME = re.compile(r"(?:^|_)(?:\w*password|\w*passwd|pwd|(?:api)?key|secret|token)(?:_|$)", re.IGNORECASE)


def masked(text: str, *secrets: str) -> str:
    """Return `text` without the credentials of URLs, the values of variables named as secrets, and `secrets`.

    >>> masked("cannot reach postgresql://me:hunter2@db/mlflow, nor https://host/a?sig=abc&b=1")
    'cannot reach postgresql://***@db/mlflow, nor https://host/a?sig=***&b=1'
    """
    for secret in filter(None, secrets):
        text = text.replace(secret, MASK)
    for pattern in (_PASSWORD, _TOKEN):
        text = pattern.sub(rf"\1{MASK}@", text)
    for pattern in (_QUERY, _ASSIGNED):
        text = pattern.sub(rf"\1{MASK}", text)
    return text


def holds_credentials(text: str) -> bool:
    """Return whether a URL in `text` holds a password, a key or a token, or a variable is set to one."""
    return masked(text) != text


def names_secret(variable: str) -> bool:
    """Return whether a variable of this name holds a secret itself, not the path of a file with one.

    >>> names_secret("OPENAI_API_KEY"), names_secret("OPENAI_API_KEY_FILE"), names_secret("TOKENIZERS_PARALLELISM")
    (True, False, False)
    """
    return bool(_SECRET_NAME.search(variable)) and not variable.upper().endswith(FILE)


def secret(variable: str) -> str:
    """Return the value of `variable`, else the content of the file that `<variable>_FILE` names, else "".

    Raises:
        engine.errors.UserError: the file cannot be read, or does not hold exactly one word.

    """
    path = os.environ.get(f"{variable}{FILE}", "")
    if os.environ.get(variable) or not path:
        return os.environ.get(variable, "")
    from engine.errors import UserError  # imported here, because errors imports this module for masking

    try:
        content = Path(path).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError, RuntimeError) as error:  # RuntimeError: "~" where the user has no home
        raise UserError(
            f"{variable}{FILE}: {path} cannot be read ({getattr(error, 'strerror', None) or error}): "
            "name a file with the secret in it that this machine can read."
        ) from None
    if not content or len(content.split()) > 1:
        raise UserError(f"{variable}{FILE}: {path} does not hold exactly one word: write only the secret into it.")
    return content
