"""DVC's cache of this repository, read directly: files by their MD5, and for each directory a list of its files."""

import hashlib
import json
import re
import shutil
import subprocess
from functools import cache, cached_property
from pathlib import Path

from engine.artifacts.files import digest_bytes, digest_file
from engine.artifacts.manifest import MANIFEST, parsed
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

    @cached_property
    def directories(self) -> dict[str, dict[str, str]]:
        """The sealed directories that it keeps: content digest → file → MD5."""
        found: dict[str, dict[str, str]] = {}
        for listing in self.root.glob("*/*.dir"):
            try:
                files = _files(listing)
            except (ValueError, KeyError, TypeError):  # torn or foreign: it lists nothing that could be brought back
                continue
            seal = self.object(files.get(MANIFEST, "absent"))
            if seal.is_file():
                found[digest_bytes(seal.read_bytes())] = files
        return found

    def refuse_foreign(self, md5: str) -> None:
        """Refuse a directory whose list names files outside it, since `dvc checkout` would write there.

        Raises:
            UserError: the list names them, or is torn.

        """
        listing = self.object(md5)
        if not md5.endswith(".dir") or not listing.is_file():
            return
        try:
            _files(listing)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{listing} in DVC's cache lists no files of one directory ({error}): remove it."
            ) from error

    def holds(self, digest: str, *, read: bool = False) -> bool:
        """Whether it keeps every file of the sealed directory of this content digest, by its size, or by every byte."""
        listed = self.directories.get(digest)
        if listed is None:
            return False
        try:
            wanted = parsed(self.object(listed[MANIFEST]), "make it again")["files"]
        except UserError:  # no manifest of ours
            return False
        kept = {name: self.object(md5) for name, md5 in listed.items()}
        return all(
            name in kept
            and kept[name].is_file()
            and kept[name].stat().st_size == want["size"]
            and (not read or digest_file(kept[name]) == want["blake2b"])
            for name, want in wanted.items()
        )

    def copy(self, digest: str, to: Path) -> None:
        """Copy the sealed directory of this content digest to `to`. Raises FileNotFoundError where it is not kept."""
        if digest not in self.directories:
            raise FileNotFoundError(f"DVC's cache keeps no directory of content {digest}")
        for name, md5 in self.directories[digest].items():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.object(md5), to / name)


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


def _files(listing: Path) -> dict[str, str]:
    """File → MD5 of a directory as DVC lists it. Raises ValueError, KeyError or TypeError for what is no such list."""
    files = {entry["relpath"]: _md5(entry["md5"]) for entry in json.loads(listing.read_bytes())}
    checked_names(files)
    return files


def _md5(value: object) -> str:
    """Return a listing's MD5; anything else would be a place outside the cache. Raises ValueError for that."""
    if not isinstance(value, str) or not _MD5.fullmatch(value):
        raise ValueError(value)
    return value
