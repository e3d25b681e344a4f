"""The commands that an error names as its remedy: each says which profile it is for, so that typing it heals.

Without PROFILE a command is about the default profile. What knows no profile finds it in the path that it speaks of:
data/<profile>/…
"""

from pathlib import Path

DATA = "data"


def command(verb: str, place: Path | str, **options: str) -> str:
    """Return `make VERB NAME=value … PROFILE=…` for a profile, or for the one that a path lies in.

    Args:
        verb: a target of the Makefile.
        place: the profile's name, or a path below data/<profile>.
        options: variables of the target, in order.

    """
    profile = place if isinstance(place, str) else profile_of(place)
    named = {**options, **({"PROFILE": profile} if profile else {})}
    return " ".join(["make", verb, *(f"{name}={value}" for name, value in named.items())])


def make_again(stage: str, place: Path | str, force: bool = False) -> str:
    """Return the words that send a reader to `make repro` of the stage which makes what is missing or damaged.

    `force` is for what DVC cannot see: it holds the stage to be fresh.
    """
    again = {"FORCE": "1"} if force else {}
    return f"run `{command('repro', place, STAGE=stage, **again)}` to make it again"


def move_aside(path: Path) -> str:
    """Return the words that send a reader to `make mend`, which takes a damaged file out of the way."""
    return f"`{command('mend', path)}` moves it aside"


def profile_of(path: Path) -> str | None:
    """Return the profile whose data a path lies in; None if it lies in none's."""
    below = [number for number, part in enumerate(path.parts[:-1], 1) if part == DATA]
    return path.parts[below[-1]] if below else None
