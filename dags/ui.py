"""`make ui`: Dagster's web page with its daemon, on this machine only, for the profile in K2_PROFILE.

python -m dags.ui [--port 3000]
"""

import argparse
import os
import sys
from pathlib import Path

from dags.home import chosen_profile, dagster_home
from dags.internals import COORDINATORS
from dags.versions import VERSIONS, code_versions
from engine.artifacts.files import write_atomic
from engine.errors import UserError
from engine.launch.ports import require_free
from pipelines.errors import report_errors
from pipelines.stages_file import ROOT

HOST = "127.0.0.1"
SETTINGS = f"""# Written by `make ui`.
telemetry: {{ enabled: false }}
nux: {{ enabled: false }}
# Runs start at once; the default coordinator only queues them for a daemon, and without one they wait for ever.
run_coordinator:
  module: {COORDINATORS}
  class: DefaultRunCoordinator
# The stages of compute class `train` share the pool `gpu`: one at a time, over all runs. Deployment > Concurrency on
# the page raises that where there are GPUs for more.
concurrency:
  pools: {{ default_limit: 1, granularity: op }}
"""


def prepare_home(home: Path) -> None:
    """Make Dagster's folder with its settings; its records stay.

    Raises UserError where a file is in the way.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        file = next(path for path in (home, *home.parents) if path.exists())
        remedy = f"move it away (`mv {file} {file}.old`)"
        raise UserError(f"{file} is a file where Dagster's folder belongs: {remedy}.") from error
    settings = home / "dagster.yaml"
    if not settings.is_file() or settings.read_text(encoding="utf-8") != SETTINGS:
        write_atomic(settings, SETTINGS.encode())


def command(port: int) -> list[str]:
    """Return the command that serves the definitions; it also starts the daemon (sensors), and stops it at its end."""
    module = [sys.executable, "-W", "ignore", "-m", "dags.page", "-m", "dags.definitions", "-d", str(ROOT)]
    return [*module, "-h", HOST, "-p", str(port), "--log-level", "warning"]


def main() -> None:
    """Start the page; Ctrl-C stops it."""
    parser = argparse.ArgumentParser(description="Dagster's page for the profile in K2_PROFILE.")
    parser.add_argument("--port", type=int, default=3000)
    port = parser.parse_args().port
    with report_errors():
        profile = chosen_profile()
        home = dagster_home(profile)
        prepare_home(home)
        _require_free(port)
        code_versions(profile, home / VERSIONS)  # cached now, so that the page need not wait for them
        os.environ |= {"DAGSTER_HOME": str(home), "K2_PROFILE": profile, "DO_NOT_TRACK": "1"}
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        print(f"Dagster for profile {profile}: http://{HOST}:{port} in about 15 s; Ctrl-C stops it.", flush=True)
        os.chdir(ROOT)
        os.execv(sys.executable, command(port))


def _require_free(port: int) -> None:
    require_free(HOST, port, "python -m dags.ui")


if __name__ == "__main__":
    main()
