"""The commands that error messages give as remedy; each names its profile, so that it can be typed as it stands.

Without PROFILE a command applies to the default profile. Code that does not know the profile takes it from the path in
question, data/<profile>/<stage>/…; code that has no path either (a node that reads a table) leaves it out, and
`completed` adds it before the message leaves the run.
"""

import re
from pathlib import Path

DATA = "data"
_COMMAND = re.compile(r"`make (?!clean|doctor|views)[a-z-]+(?: (?!PROFILE=)[A-Z]+=[^ `]+)*`")
"""A command in a message that applies to a profile and does not name one."""


def command(verb: str, place: Path | str | None, **options: str) -> str:
    """Return `make VERB NAME=value … PROFILE=…` for a profile, or for the profile that contains a path.

    Args:
        verb: a target of the Makefile.
        place: the profile's name, or a path below data/<profile>; None if it is not known yet.
        options: variables of the target, in order.

    """
    profile = _profile_and_stage(place)[0] if isinstance(place, Path) else place
    named = {**options, **({"PROFILE": profile} if profile else {})}
    return " ".join(["make", verb, *(f"{name}={value}" for name, value in named.items())])


def make_again(stage: str, place: Path | str | None, force: bool = False) -> str:
    """Return the advice to run `make repro` for the stage that makes the missing or damaged artifact.

    `force` is for damage that DVC cannot see: DVC takes the stage for fresh.
    """
    again = {"FORCE": "1"} if force else {}
    return f"run `{command('repro', place, STAGE=stage, **again)}` to make it again"


def remake(path: Path) -> str:
    """Return advice on how to get a damaged artifact again: from its stage, or from its origin if it is foreign."""
    _, stage = _profile_and_stage(path)
    return make_again(stage, path) if stage else "make it again, or name another directory"


def move_aside(path: Path) -> str:
    """Return the advice to run `make mend`, which moves a damaged file aside."""
    return f"`{command('mend', path)}` moves it aside"


def completed(sentence: str, profile: str) -> str:
    """Return a message after adding the profile to its commands that lack one."""
    return _COMMAND.sub(lambda match: f"{match[0][:-1]} PROFILE={profile}`", sentence)


def _profile_and_stage(path: Path) -> tuple[str | None, str | None]:
    """Return the profile whose data a path is in, and the stage that made it; None for what the path does not have."""
    below = [number for number, part in enumerate(path.parts[:-1], 1) if part == DATA]
    if not below:
        return None, None
    profile, *rest = path.parts[below[-1] :]
    return profile, rest[0] if rest and not rest[0].startswith(".") else None
