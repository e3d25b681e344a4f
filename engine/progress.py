"""Show progress of long work: a rich bar on a terminal, a line every few seconds in a log file."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

LOG_EVERY_SECONDS = 10.0
_silent = False


def silence() -> None:
    """Show no progress in this process, because another process does the same work and shows it."""
    global _silent  # noqa: PLW0603 - like standard error, this exists once per process
    _silent = True


class Bar:
    """The progress of one piece of work; `advance` moves it and shows the latest figures."""

    def __init__(self, title: str, total: int, rich_bar: Progress | None, task: TaskID | None) -> None:
        self.title, self.total, self.done = title, total, 0
        self._rich, self._task = rich_bar, task
        self._last = self._start = time.monotonic()

    def advance(self, n: int = 1, **figures: str) -> None:
        """Advance by `n` of `total`; `figures` (name → formatted value) are shown next to the bar."""
        self.done += n
        note = "  ".join(f"{name} {value}" for name, value in figures.items())
        if self._rich is not None and self._task is not None:
            self._rich.update(self._task, advance=n, note=note)
            return
        now = time.monotonic()
        if _silent:
            return
        if now - self._last >= LOG_EVERY_SECONDS or self.done == self.total:
            self._last = now
            print(
                f"{self.title}: {self.done}/{self.total}  {now - self._start:.0f} s  {note}",
                file=sys.stderr,
                flush=True,
            )


@contextmanager
def progress(title: str, total: int) -> Iterator[Bar]:
    """Show progress of `total` steps under `title` on standard error."""
    console = Console(stderr=True)
    if _silent or not console.is_terminal:
        yield Bar(title, total, None, None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as rich_bar:
        yield Bar(title, total, rich_bar, rich_bar.add_task(title, total=total, note=""))
