"""The commands that an error names as its remedy: each says which profile it is for, so that typing it heals.

Without PROFILE a command is about the default profile. What knows no profile finds it in the path that it speaks of,
data/<profile>/<stage>/…; what has no path either (a node that reads a table) leaves it out, and `completed` puts it in
where the sentence leaves the run.
"""

import re
from pathlib import Path

DATA = "data"
_COMMAND = re.compile(r"`make (?!clean|doctor|views)[a-z-]+(?: (?!PROFILE=)[A-Z]+=[^ `]+)*`")
"""A command of ours in a sentence that is about a profile and names none."""


def command(verb: str, place: Path | str | None, **options: str) -> str:
    """Return `make VERB NAME=value … PROFILE=…` for a profile, or for the one that a path lies in.

    Args:
        verb: a target of the Makefile.
        place: the profile's name, or a path below data/<profile>; None where nobody knows yet.
        options: variables of the target, in order.

    """
    profile = _profile_and_stage(place)[0] if isinstance(place, Path) else place
    named = {**options, **({"PROFILE": profile} if profile else {})}
    return " ".join(["make", verb, *(f"{name}={value}" for name, value in named.items())])


def make_again(stage: str, place: Path | str | None, force: bool = False) -> str:
    """Return the words that send a reader to `make repro` of the stage which makes what is missing or damaged.

    `force` is for what DVC cannot see: it holds the stage to be fresh.
    """
    again = {"FORCE": "1"} if force else {}
    return f"run `{command('repro', place, STAGE=stage, **again)}` to make it again"


def remake(path: Path) -> str:
    """Return the words on how to get a damaged artifact again: by its stage, or where it came from if it is foreign."""
    _, stage = _profile_and_stage(path)
    return make_again(stage, path) if stage else "make it again, or name another directory"


def move_aside(path: Path) -> str:
    """Return the words that send a reader to `make mend`, which takes a damaged file out of the way."""
    return f"`{command('mend', path)}` moves it aside"


def completed(sentence: str, profile: str) -> str:
    """Return a sentence whose commands all name a profile."""
    return _COMMAND.sub(lambda found: f"{found[0][:-1]} PROFILE={profile}`", sentence)


def _profile_and_stage(path: Path) -> tuple[str | None, str | None]:
    """The profile whose data a path lies in, and the stage that made it; None for what it has not."""
    below = [number for number, part in enumerate(path.parts[:-1], 1) if part == DATA]
    if not below:
        return None, None
    profile, *rest = path.parts[below[-1] :]
    return profile, rest[0] if rest and not rest[0].startswith(".") else None
