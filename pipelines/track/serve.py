"""MLflow's own pages, on this machine only."""

import os
import sys

from engine.launch.ports import require_free
from pipelines.track.store import artifact_root

HOST = "127.0.0.1"


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
