"""The entry point: `client(settings, …)` gives a chat client that calls, caches and cleans up."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from engine.errors import UserError
from engine.llm import local
from engine.llm.cache import ReplyCache
from engine.llm.http import post_chat
from engine.llm.protocol import ChatClient, ChatReply, ChatRequest, LLMSettings, Provider

Template = Callable[[ChatRequest], str]
"""A deterministic generator: a function from the request to the whole reply."""


@contextmanager
def client(
    settings: LLMSettings, cache: Path | None = None, where: str = "llm", template: Template | None = None
) -> Iterator[ChatClient]:
    """Open a chat client for `settings`, to be used in a `with` block.

    `cache` is the directory of the reply cache (a stage's `workspace / "llm"`) or None; `where` names the settings in
    messages to the user ("rephrase.llm"); `template` answers if the provider is `template`. The local server starts at
    the first request that is not in the cache, so that a finished run starts none.
    """
    with ExitStack() as stack:
        yield _client(settings, ReplyCache(cache) if cache else None, where, template, stack)


def _client(
    settings: LLMSettings, cache: ReplyCache | None, where: str, template: Template | None, stack: ExitStack
) -> ChatClient:
    if settings.provider == "template":
        if template is None:
            raise UserError(f"{where}.provider: this stage has no template for it; set it to local or openai")
        return TemplateClient(template)
    if settings.provider == "openai":
        return HTTPClient(settings, cache, where, f"{settings.model} at {settings.base_url}", lambda: settings.base_url)
    return HTTPClient(
        settings,
        cache,
        where,
        local.identity(settings, where),
        lambda: stack.enter_context(local.serving(settings, where)),
    )


class TemplateClient:
    """A client that answers from one of our functions, without calls or cache."""

    provider: Provider = "template"
    identity = "template"

    def __init__(self, template: Template) -> None:
        self._template = template

    def chat(self, request: ChatRequest) -> ChatReply:
        """Return the template's text; token counts are zero, since no tokens were used."""
        return ChatReply(self._template(request), "stop", 0, 0)


class HTTPClient:
    """A client for an OpenAI-compatible server with a cache; `address` is called once, before the first real call."""

    def __init__(
        self, settings: LLMSettings, cache: ReplyCache | None, where: str, identity: str, address: Callable[[], str]
    ) -> None:
        self.provider: Provider = settings.provider
        self._settings, self._cache, self._where = settings, cache, where
        self._identity, self._open, self._address = identity, address, ""
        self.calls = 0

    @property
    def identity(self) -> str:
        """The model's name and version."""
        return self._identity

    def chat(self, request: ChatRequest) -> ChatReply:
        """Return one reply; raises UserError if the server cannot be reached or refuses."""
        stored = self._cache.get(request, self._identity) if self._cache else None
        if stored is not None:
            return stored
        self._address = self._address or self._open()
        reply = post_chat(self._address, self._settings.model, request, self._settings, self._where)
        self.calls += 1
        if self._cache:
            self._cache.put(request, self._identity, reply)
        return reply
