"""Agents: a synthesized system prompt combined with a subset of tools (K2 paper, 3.1.1)."""

from typing import Any

from engine.keyed import keyed_digest, keyed_random
from engine.toolworld.specs import ToolSpec, choose_domains, load_tools

PROMPTS = (
    "You are a {role}. Use the tools.",
    "You are a careful {role}. Look before you act.",
    "You are a {role}. Never guess; ask.",
    "You are a {role}. Say only what the tools say.",
)
"""Short system prompts: the agent's role and one rule of conduct."""


def make_agents(seed: int, domains: list[str], count: int, tools_per_agent: tuple[int, int]) -> list[dict[str, Any]]:
    """Return `count` agents as rows of the `agents` table; domains take turns, so each gets its share."""
    names = list(choose_domains(domains))
    agents: list[dict[str, Any]] = []
    for index in range(count):
        domain = names[index % len(names)]
        rng = keyed_random(seed, "agent", index)
        role = choose_domains([domain])[domain].role
        agents.append({
            "id": "agent_" + keyed_digest(seed, "agent", index, size=4),
            "domain": domain,
            "system_prompt": PROMPTS[rng.randrange(len(PROMPTS))].format(role=role),
            "tools": _subset(domain, rng.randint(*tools_per_agent), index // len(names), seed),
        })  # fmt: skip
    return agents


def _subset(domain: str, size: int, turn: int, seed: int) -> list[str]:
    """Return `size` tools of one application, at least one of which reads; a domain's applications take turns."""
    applications: dict[str, list[ToolSpec]] = {}
    for tool in load_tools().values():
        if tool.domain == domain:
            applications.setdefault(tool.application, []).append(tool)
    tools = list(applications.values())[turn % len(applications)]
    rng = keyed_random(seed, "subset", domain, turn)
    reader = rng.choice([tool for tool in tools if not tool.stateful])
    rest = rng.sample([tool for tool in tools if tool is not reader], min(size, len(tools)) - 1)
    chosen = {tool.name for tool in (reader, *rest)}
    return [tool.name for tool in tools if tool.name in chosen]
