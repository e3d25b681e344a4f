"""A content-addressed store of replies: the same request to the same model is sent once, even if a run is killed."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

from engine.llm.protocol import ChatReply, ChatRequest


class ReplyCache:
    """One small JSON file per reply, named by the hash of model and request, and written atomically."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def get(self, request: ChatRequest, identity: str) -> ChatReply | None:
        """Return the stored reply, or None; a file cut short by a crash counts as missing."""
        try:
            stored = json.loads(self._path(request, identity).read_text(encoding="utf-8"))
            return replace(ChatReply(**stored["reply"]), cached=True)
        except (FileNotFoundError, ValueError, RecursionError, KeyError, TypeError):
            return None

    def put(self, request: ChatRequest, identity: str, reply: ChatReply) -> None:
        """Store a reply together with its request, so that people can read the store."""
        path = self._path(request, identity)
        path.parent.mkdir(parents=True, exist_ok=True)
        record = {"model": identity, "request": asdict(request), "reply": asdict(replace(reply, cached=False))}
        sibling = path.with_suffix(f".{os.getpid()}.part")
        with sibling.open("w", encoding="utf-8") as stream:
            json.dump(record, stream, indent=1, sort_keys=True)
            stream.flush()
            os.fsync(stream.fileno())
        sibling.replace(path)

    def _path(self, request: ChatRequest, identity: str) -> Path:
        key = request.key(identity)
        return self.directory / key[:2] / f"{key}.json"
