"""One protocol for every language model that writes data: OpenAI's HTTP API, cached by content."""

from engine.llm.client import Template, client
from engine.llm.protocol import ChatClient, ChatReply, ChatRequest, LLMSettings, Provider

__all__ = ["ChatClient", "ChatReply", "ChatRequest", "LLMSettings", "Provider", "Template", "client"]
