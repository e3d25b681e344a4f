"""A small OpenAI-compatible endpoint on loopback that answers as a test says."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], tuple[int, Any]]


class FakeOpenAI:
    """The endpoint keeps every request and its headers.

    `answer` maps a body to (status, reply), the reply being a completion's text, an object to send as JSON, or bytes
    to send as they are. Every answer carries `location` as its Location header, if there is one.
    """

    def __init__(self, answer: Answer) -> None:
        self.answer, self.bodies, self.headers, self.paths = answer, [], [], []
        self.url = self.location = ""


def completion(text: str) -> dict[str, Any]:
    return {
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3},
    }


@contextmanager
def fake_openai(answer: Answer) -> Iterator[FakeOpenAI]:
    fake = FakeOpenAI(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "null")
            fake.bodies.append(body)
            fake.headers.append(dict(self.headers))
            fake.paths.append(self.path)
            status, reply = fake.answer(body)
            if not isinstance(reply, bytes):
                reply = json.dumps(completion(reply) if isinstance(reply, str) else reply).encode()
            self.send_response(status)
            if fake.location:
                self.send_header("Location", fake.location)
            self.end_headers()
            self.wfile.write(reply)

        do_GET = do_POST

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
