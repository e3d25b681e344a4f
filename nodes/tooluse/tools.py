"""Tool specs as rows of the `tools` table."""

from typing import Any

from engine.toolworld.messages import compact
from engine.toolworld.specs import choose_domains, load_tools


def tool_rows(domains: list[str]) -> list[dict[str, Any]]:
    """Return every tool of `domains` (all if empty), with its parameters as compact JSON schema."""
    chosen = choose_domains(domains)
    return [
        {
            "name": tool.name,
            "domain": tool.domain,
            "origin": tool.origin,
            "description": tool.description,
            "parameters": compact(dict(tool.parameters)),
            "returns": tool.returns,
            "stateful": tool.stateful,
        }
        for tool in load_tools().values()
        if tool.domain in chosen
    ]
