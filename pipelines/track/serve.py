"""Serve MLflow's own pages, on this machine only."""

import os
import sys

from engine.credentials import masked
from engine.launch.ports import require_free
from pipelines.track.store import artifact_root

HOST = "127.0.0.1"


def serve(uri: str, port: int) -> None:
    """Become MLflow's server on this machine only; for a server elsewhere, print its address."""
    if uri.startswith("http"):
        print(f"MLflow: {masked(uri)}")
        return
    require_free(HOST, port, "python -m pipelines.track --serve")
    print(f"MLflow: http://{HOST}:{port} in about 15 s; Ctrl-C stops it.", flush=True)
    os.environ |= environment(uri)
    arguments = ["--default-artifact-root", where] if (where := artifact_root(uri)) else []
    os.execv(sys.executable, [*command(port), *arguments])


def command(port: int) -> list[str]:
    """Return the command of a server that answers on this machine alone, and only to its own names.

    MLflow's default would also accept a web site `10.example.org` that leads to 127.0.0.1 (DNS rebinding).
    """
    names = ",".join(name for host in (HOST, "localhost") for name in (host, f"{host}:{port}"))
    arguments = [sys.executable, "-W", "ignore", "-m", "mlflow", "server", "--workers", "1", "--allowed-hosts", names]
    return [*arguments, "--uvicorn-opts", "--log-level warning", "--host", HOST, "--port", str(port)]


def environment(uri: str) -> dict[str, str]:
    """Return the server's environment; the store is in it, since all users see a password on a command line."""
    return {
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONWARNINGS": "ignore",
        "DO_NOT_TRACK": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # else seven job workers, of no use here
    }
