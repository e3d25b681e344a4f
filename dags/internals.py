"""The uses of Dagster beyond its public interface, in one function each, written for Dagster 1.13.27.

Each refuses in one sentence a Dagster in which what it needs has moved; tests/dags/test_internals.py says so before.
"""

import subprocess
from collections.abc import Callable
from importlib.metadata import version
from types import ModuleType
from typing import TYPE_CHECKING, Any

from engine.errors import UserError

if TYPE_CHECKING:  # it takes more than a second to import, and `make ui` needs none of it
    from dagster_webserver.webserver import DagsterWebserver

WRITTEN_FOR = "1.13.27"
COORDINATORS = "dagster._core.run_coordinator"
"""Dagster 1.13.27's module of `DefaultRunCoordinator`, which has no public place: dagster.yaml names it."""
PAGE, DAEMON = ["-m", "dagster_webserver"], ["-m", "dagster._daemon"]
"""How `dagster dev` of Dagster 1.13.27 starts its two processes: the words behind the interpreter."""


def serve_page(webserver: "type[DagsterWebserver]") -> None:
    """Serve Dagster's page as `dagster-webserver` does, by a web server class of ours.

    Dagster 1.13.27 makes the application from the name `DagsterWebserver` in dagster_webserver.app.
    """
    from dagster_webserver import app
    from dagster_webserver.cli import main

    replace(app, "DagsterWebserver", webserver)
    main()


def start_page_and_daemon(page: list[str]) -> None:
    """Be `dagster dev`, with the command `page` in place of Dagster's own page.

    Dagster 1.13.27 starts both processes by the name `open_ipc_subprocess` in dagster._cli.dev.
    """
    from dagster._cli import dev

    replace(dev, "open_ipc_subprocess", starting(page, getattr(dev, "open_ipc_subprocess", None)))
    dev.dev_command(prog_name="dagster dev")


def starting(page: list[str], start: Callable[..., Any] | None) -> Callable[..., "subprocess.Popen[bytes]"]:
    """Return a function that starts a process as `start` does, and `page` where that is Dagster's page.

    It raises UserError for a process that it does not know, which might be a page that answers to everybody.
    """

    def start_ours(words: list[str], **more: Any) -> "subprocess.Popen[bytes]":
        if start is None or words[1:3] not in (PAGE, DAEMON):
            raise UserError(_moved(f"`dagster dev` that starts {' '.join(PAGE)} and {' '.join(DAEMON)}"))
        process: subprocess.Popen[bytes] = start([*page, *words[3:]] if words[1:3] == PAGE else words, **more)
        return process

    return start_ours


def replace(module: ModuleType, name: str, value: object) -> None:
    """Give a name in one of Dagster's modules another value.

    Raises:
        UserError: the module has no such name any more, so nobody would use the value.

    """
    if name not in vars(module):
        raise UserError(_moved(f"{module.__name__}.{name}"))
    vars(module)[name] = value


def _moved(part: str) -> str:
    return (
        f"Dagster {version('dagster')} has no {part}, which {WRITTEN_FOR} had and dags/internals.py replaces: install "
        f"Dagster {WRITTEN_FOR} (requirements/run.txt), or write dags/internals.py anew."
    )
