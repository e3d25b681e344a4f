"""`python -m pipelines.track`: import, and with --serve show MLflow's pages."""

import argparse
import os
import socket
import sys
from urllib.parse import urlsplit

from engine.launch.ports import require_free
from pipelines.errors import report_errors
from pipelines.manifest import ROOT, load_manifest
from pipelines.track.importer import SQLITE, Importer, artifact_root, client, one_at_a_time, read_all_records

HOST = "127.0.0.1"
PROBE_SECONDS = 3.0


def main() -> None:
    """Import a profile's run records; with --serve, start the pages afterwards."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.track", description="Import run records into MLflow.")
    parser.add_argument("--env", default=None, help="profile")
    parser.add_argument("--tracking-uri", default=None, help="default: MLFLOW_TRACKING_URI, else sqlite in data/")
    parser.add_argument("--serve", action="store_true", help="then serve the comparison pages")
    parser.add_argument("--port", type=int, default=5000)
    asked = parser.parse_args()
    with report_errors():
        profile = load_manifest().profile(asked.env)
        uri = asked.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or default_uri()
        track(profile, uri)
        if asked.serve:
            serve(uri, asked.port)


def default_uri() -> str:
    """One SQLite file for all profiles."""
    return f"{SQLITE}{ROOT / 'data' / 'mlflow.db'}"


def track(profile: str, uri: str) -> bool:
    """Import what is new. A tracking server that is down or refuses costs a warning, never a failed run.

    Returns:
        Whether MLflow now holds every record.

    """
    records = read_all_records(profile)
    if not records:
        print(f"mlflow: profile {profile} has no run records yet")
        return True
    try:
        _require_listening(uri)
        with one_at_a_time(profile):
            from mlflow.exceptions import MlflowException

            try:
                new = Importer(client(uri), profile).import_all(records)
            except MlflowException as error:
                raise OSError(" ".join(str(error).split())[:300]) from error
    except OSError as error:
        print(
            f"warning: MLflow at {uri} could not take the run records ({error}); they stay in data/{profile}/.runs, "
            "and the next `make compare` or `make run` imports them.",
            file=sys.stderr,
        )
        return False
    print(f"mlflow: {new} of {len(records)} stage runs of profile {profile} imported into {uri}")
    return True


def serve(uri: str, port: int) -> None:
    """Become MLflow's server on this machine only; for a server elsewhere, name its address."""
    if uri.startswith("http"):
        print(f"MLflow: {uri}")
        return
    require_free(HOST, port, "python -m pipelines.track --serve")
    print(f"MLflow: http://{HOST}:{port} in about 15 s; Ctrl-C stops it.", flush=True)
    # without the last, MLflow starts seven job workers that this project has no use for
    os.environ |= {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONWARNINGS": "ignore",
        "DO_NOT_TRACK": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    command = [sys.executable, "-W", "ignore", "-m", "mlflow", "server", "--backend-store-uri", uri, "--workers", "1"]
    command += ["--uvicorn-opts", "--log-level warning"]
    if where := artifact_root(uri):
        command += ["--default-artifact-root", where]
    os.execv(sys.executable, [*command, "--host", HOST, "--port", str(port)])


def _require_listening(uri: str) -> None:
    """Find a dead server out in moments, before MLflow is imported and retries.

    Raises:
        OSError: nothing answers there.

    """
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https"):
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or HOST, port), PROBE_SECONDS).close()


if __name__ == "__main__":
    main()
