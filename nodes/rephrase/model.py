"""A language model as writer: it sees each piece with the surrounding excerpt and the rewrites so far."""

from engine.llm import ChatClient, ChatRequest
from nodes.rephrase.pieces import Piece

_SYSTEM = (
    "You rewrite passages. Keep every number, name and fact exactly; add nothing, leave nothing out. "
    "Answer with the rewritten passage only."
)


class ModelWriter:
    """Rewrites through a chat client; equal pieces give equal requests, so the cache answers a rerun."""

    def __init__(self, client: ChatClient, max_tokens: int, temperature: float, seed: int) -> None:
        self.generator: str = client.provider
        self._client, self._max_tokens, self._temperature, self._seed = client, max_tokens, temperature, seed

    def rewrite(self, piece: Piece) -> str:
        """Return the model's reply to the rewriting prompt."""
        request = ChatRequest(
            messages=(("system", _SYSTEM), ("user", prompt(piece))),
            max_tokens=self._max_tokens,
            temperature=self._temperature,
            seed=self._seed,
            purpose="rephrase",
        )
        return self._client.chat(request).text.strip()


def prompt(piece: Piece) -> str:
    """Return the user's message: excerpt and rewrites so far, if there is more than one piece, then the passage."""
    parts = []
    if piece.excerpt.strip() != piece.text.strip():
        parts.append(f"The passage stands in this text:\n{piece.excerpt}")
    if piece.previous:
        parts.append("What comes before it has been rewritten like this:\n" + "\n\n".join(piece.previous))
    parts.append(
        f"Rewrite the passage as {piece.style.prompt}, from the viewpoint of {piece.perspective.prompt}.\n\n"
        f"Passage: {piece.text}"
    )
    return "\n\n".join(parts)
