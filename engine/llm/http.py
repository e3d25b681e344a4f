"""POST /chat/completions to an OpenAI-compatible server, with the standard library alone."""

import http.client
import json
import time
import urllib.error
import urllib.request
from typing import Any

from engine.credentials import FILE, masked, secret
from engine.errors import UserError
from engine.llm.protocol import ChatReply, ChatRequest, LLMSettings

_RETRIED = frozenset({408, 409, 429, 500, 502, 503, 504})
_FIRST_WAIT_SECONDS = 0.5


def post_chat(base_url: str, model: str, request: ChatRequest, settings: LLMSettings, where: str) -> ChatReply:
    """Send one request; `where` names the parameter that a user would change.

    A lost connection or an overloaded server is tried again `settings.retries` times, each wait twice as long.
    Raises UserError if the server stays out of reach, refuses the request, or answers with something else than a
    completion.
    """
    body = json.dumps(request.payload(model)).encode()
    for attempt in range(settings.retries + 1):
        try:
            return _reply(_post(base_url, body, settings), base_url, where)
        except urllib.error.HTTPError as error:
            if error.code not in _RETRIED or attempt == settings.retries:
                raise UserError(_refused(base_url, error, where, settings)) from None
        except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
            if attempt == settings.retries:
                reason = getattr(error, "reason", None) or error
                raise UserError(
                    f"{where}.base_url: no language model answers at {base_url} ({reason}); start the server, correct "
                    "the address, or set provider to template or local"
                ) from None
        time.sleep(_FIRST_WAIT_SECONDS * 2**attempt)
    raise AssertionError("unreachable: the last attempt returns or raises")


def _post(base_url: str, body: bytes, settings: LLMSettings) -> Any:
    headers = {"Content-Type": "application/json"}
    key = secret(settings.api_key_env) if settings.provider == "openai" else ""
    if key:
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(f"{base_url.rstrip('/')}/chat/completions", body, headers)
    with urllib.request.urlopen(request, timeout=settings.timeout_seconds) as response:
        return response.read()


def _reply(raw: bytes, base_url: str, where: str) -> ChatReply:
    try:
        answer = json.loads(raw)
        choice, usage = answer["choices"][0], answer.get("usage") or {}
        return ChatReply(
            text=choice["message"]["content"] or "",
            finish_reason=choice.get("finish_reason") or "stop",
            prompt_tokens=int(usage.get("prompt_tokens", 0)),
            completion_tokens=int(usage.get("completion_tokens", 0)),
        )
    except (ValueError, KeyError, IndexError, TypeError):
        raise UserError(
            f"{where}.base_url: {base_url} does not answer as OpenAI's chat completions do (it said "
            f"{raw[:80].decode(errors='replace')!r}); give the address up to and with /v1"
        ) from None


def _refused(base_url: str, error: urllib.error.HTTPError, where: str, settings: LLMSettings) -> str:
    answer = " ".join(error.read(400).decode(errors="replace").split())
    said = masked(answer, secret(settings.api_key_env))[:200]
    remedy = {
        401: _key_remedy(settings),
        403: _key_remedy(settings),
        404: "give the address up to and with /v1, and a model that the server has",
    }.get(error.code, "see the server's log")
    return f"{where}.base_url: {base_url} refuses the request with HTTP {error.code} ({said}); {remedy}"


def _key_remedy(settings: LLMSettings) -> str:
    name = settings.api_key_env
    return f"put a valid key into the environment variable {name}, or into a file whose path stands in {name}{FILE}"
