"""One protocol for every language model that writes data: OpenAI's HTTP API, cached by content."""
