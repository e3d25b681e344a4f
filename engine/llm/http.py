"""POST /chat/completions to an OpenAI-compatible server, using only the standard library.

The key is sent only to the host of `base_url`: redirects are not followed, and no message repeats the key.
"""

import http.client
import json
import time
import urllib.error
import urllib.request
from functools import cache
from typing import Any
from urllib.parse import urljoin, urlsplit

from engine.credentials import FILE, masked, secret
from engine.errors import UserError
from engine.llm.protocol import ChatReply, ChatRequest, LLMSettings

_RETRIED = frozenset({408, 409, 429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_FIRST_WAIT_SECONDS = 0.5
_SHOWN = 200  # bytes of a server's text shown in a message


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Leaves every redirect to the caller as an HTTPError, because urllib would send the key to any host."""

    def http_error_302(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing, so that urllib raises the error."""

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


@cache
def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_NoRedirect)


def post_chat(base_url: str, model: str, request: ChatRequest, settings: LLMSettings, where: str) -> ChatReply:
    """Send one request; `where` names the parameter that the user would change.

    After a lost connection or from an overloaded server, the request is repeated up to `settings.retries` times, each
    wait twice as long. Raises UserError if the server stays out of reach, refuses the request, redirects it, or answers
    with something other than a completion.
    """
    body = json.dumps(request.payload(model)).encode()
    key = _key(settings, where)
    for attempt in range(settings.retries + 1):
        try:
            return _reply(_post(base_url, body, key, settings), base_url, key, where)
        except urllib.error.HTTPError as error:
            if error.code not in _RETRIED or attempt == settings.retries:
                raise UserError(_refused(base_url, error, key, where, settings)) from None
        except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
            if attempt == settings.retries:
                reason = _said(str(getattr(error, "reason", None) or error).encode(), key)
                raise UserError(
                    f"{where}.base_url: no language model answers at {base_url} ({reason}); start the server, correct "
                    "the address, or set provider to template or local"
                ) from None
        time.sleep(_FIRST_WAIT_SECONDS * 2**attempt)
    raise AssertionError("unreachable: the last attempt returns or raises")


def _key(settings: LLMSettings, where: str) -> str:
    """Return the key on this machine, or ""; a key that no header can carry is refused without being shown."""
    key = secret(settings.api_key_env).strip() if settings.provider == "openai" else ""
    if not (key.isascii() and key.isprintable()):
        raise UserError(
            f"{where}.api_key_env: the key in {settings.api_key_env} holds a line break or a character outside ASCII, "
            "which no header can carry: set it again"
        )
    return key


def _post(base_url: str, body: bytes, key: str, settings: LLMSettings) -> bytes:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(f"{base_url.rstrip('/')}/chat/completions", body, headers)
    with _opener().open(request, timeout=settings.timeout_seconds) as response:
        return bytes(response.read())


def _reply(raw: bytes, base_url: str, key: str, where: str) -> ChatReply:
    try:
        answer = json.loads(raw)
        choice, usage = answer["choices"][0], answer.get("usage") or {}
        text = choice["message"]["content"] or ""
        if not isinstance(text, str):
            raise TypeError("the content is not text")
        return ChatReply(
            text=text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"),  # half a pair cannot be stored
            finish_reason=str(choice.get("finish_reason") or "stop"),
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            completion_tokens=int(usage.get("completion_tokens") or 0),
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, RecursionError):
        raise UserError(
            f"{where}.base_url: {base_url} does not answer as OpenAI's chat completions do (it said "
            f"{_said(raw, key)!r}); give the address up to and with /v1"
        ) from None


def _refused(base_url: str, error: urllib.error.HTTPError, key: str, where: str, settings: LLMSettings) -> str:
    if error.code in _REDIRECTS:
        target = _origin(error.headers.get("Location", ""), base_url)
        return (
            f"{where}.base_url: {base_url} redirects to {target}, and the request and its key are not sent on: "
            "if that is the server that you mean, give its address"
        )
    remedy = {
        401: _key_remedy(settings),
        403: _key_remedy(settings),
        404: "give the address up to and with /v1, and a model that the server has",
    }.get(error.code, "see the server's log")
    message = _said(_body(error), key)
    return f"{where}.base_url: {base_url} refuses the request with HTTP {error.code} ({message}); {remedy}"


def _key_remedy(settings: LLMSettings) -> str:
    name = settings.api_key_env
    return f"put a valid key into the environment variable {name}, or into a file whose path is in {name}{FILE}"


def _body(error: urllib.error.HTTPError) -> bytes:
    """Return the text of a refusal, as far as it arrives."""
    try:
        return error.read(64 * _SHOWN)
    except (OSError, http.client.HTTPException):
        return b""


def _said(raw: bytes, key: str) -> str:
    """Return a server's text, short and on one line, with the key masked if the server repeats it."""
    text = " ".join(raw.decode(errors="replace").split())
    return masked(text, key)[:_SHOWN]


def _origin(location: str, base_url: str) -> str:
    """Return where a redirect leads, without credentials and query."""
    try:
        parts = urlsplit(urljoin(base_url, location))
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    except ValueError:
        return "an invalid address"
