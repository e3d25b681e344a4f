"""DVC's cache of this repository, read directly for two things that no command of DVC tells.

Whether `dvc checkout` would write outside an output; and whether a manifest is still in there. No file is taken from
it.
"""

import hashlib
import json
import re
import subprocess
from functools import cache
from pathlib import Path

from engine.artifacts.names import checked_names
from engine.errors import UserError
from pipelines.stages_file import ROOT

_MD5 = re.compile(r"[0-9a-f]{32}")


class DvcCache:
    """What DVC has kept of outputs, older ones too, until `dvc gc`.

    DVC 3.67.1 keeps a file as files/md5/<first two digits>/<the rest>, and for a directory a JSON list of its files'
    `relpath` and `md5` as such a file with the suffix `.dir`.
    """

    def __init__(self) -> None:
        """Find it. Raises UserError where DVC does not say where it is."""
        self.root = _location(ROOT) / "files" / "md5"

    def object(self, md5: str) -> Path:
        """The place of a file of this MD5, there or not."""
        return self.root / md5[:2] / md5[2:]

    def has(self, path: Path) -> bool:
        """Whether it keeps a file of the content of `path`."""
        return self.object(hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()).is_file()

    def refuse_foreign(self, md5: str) -> None:
        """Refuse a directory whose list names files outside it, since `dvc checkout` would write there.

        Raises:
            UserError: the list names them, or is torn.

        """
        listing = self.object(md5)
        if not md5.endswith(".dir") or not listing.is_file():
            return
        try:
            _check_listing(listing)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{listing} in DVC's cache lists no files of one directory ({error}): remove it."
            ) from error


@cache
def _location(root: Path) -> Path:
    """Ask DVC where its files are, since a team may have them elsewhere; the answer takes a second."""
    try:
        done = subprocess.run(["dvc", "cache", "dir"], cwd=root, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise UserError("there is no `dvc` on PATH: `source .venv/bin/activate`.") from error
    except subprocess.CalledProcessError as error:
        raise UserError(f"`dvc cache dir` failed: {' '.join(error.stderr.split())}") from error
    return (root / done.stdout.strip()).resolve()


def _check_listing(listing: Path) -> None:
    """Check DVC's list of a directory's files: names of files in it, each with an MD5, which is a place in the cache.

    Raises ValueError, KeyError or TypeError for what is no such list.
    """
    files = {entry["relpath"]: entry["md5"] for entry in json.loads(listing.read_bytes())}
    checked_names(files)
    for md5 in files.values():
        if not isinstance(md5, str) or not _MD5.fullmatch(md5):
            raise ValueError(md5)
