"""A baseline agent that knows only the tools: one uniformly drawn legal call, then the tool's result as the answer.

Its score shows how much a small world gives away. It is a fair baseline: names are drawn from the records' own names
and the words that the user said, never from all strings.
"""

import re
from typing import Any

from engine.keyed import keyed_random
from engine.toolworld.messages import Message, assistant, compact, tool_call
from engine.toolworld.specs import application_of, load_tools

_WORD = re.compile(r"[A-Za-z0-9.]+")


class UniformPolicy:
    """A uniform agent for one episode, an `AgentFn`."""

    def __init__(self, seed: int) -> None:
        self._rng = keyed_random(seed, "uniform policy")
        self._called = False

    def __call__(self, messages: list[Message], tools: list[dict[str, Any]]) -> Message:
        """Return a call first, then the content of its result."""
        if self._called:
            return assistant(str(messages[-1]["content"]) if messages[-1]["role"] == "tool" else "Done.")
        self._called = True
        function = self._rng.choice(tools)["function"]
        words = [word.rstrip(".") for m in messages if m["role"] == "user" for word in _WORD.findall(m["content"])]
        arguments = {
            name: self._value(function["name"], declared, words)
            for name, declared in function["parameters"]["properties"].items()
        }
        return assistant("", [tool_call(function["name"], compact(arguments), 0)])

    def _value(self, tool: str, declared: dict[str, Any], words: list[str]) -> str | int:
        if "enum" in declared:
            return str(self._rng.choice(declared["enum"]))
        if declared["type"] == "integer":
            numbers = [int(word) for word in words if word.isdigit()]
            return self._rng.choice(numbers or [1])
        return self._rng.choice([*application_of(load_tools()[tool]).keys, *words])
