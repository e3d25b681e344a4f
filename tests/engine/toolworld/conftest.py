"""One hand-written task in the bank and the scripted agents that play it."""

import json

import pytest

from engine.toolworld import Checkpoint, Goal, Step, Task, World
from engine.toolworld.messages import assistant, calls_made, tool_call

SEED = 7


def call(messages, *calls):
    """An assistant turn with `calls` = (name, arguments) pairs."""
    start = calls_made(messages)
    return assistant("", [tool_call(name, json.dumps(args), start + i) for i, (name, args) in enumerate(calls)])


class Script:
    """An agent that says its lines in order: text, or a list of (tool, arguments)."""

    def __init__(self, *lines):
        self.lines = list(lines)

    def __call__(self, messages, tools):
        line = self.lines.pop(0) if self.lines else "I am done."
        return assistant(line) if isinstance(line, str) else call(messages, *line)


@pytest.fixture
def script():
    return Script


@pytest.fixture
def bank():
    """Two goals: send money, then tell the receiver's balance."""
    accounts = World("bank", SEED).state["accounts"]
    source, target = list(accounts)[:2]
    before = accounts[source]["balance"], accounts[target]["balance"]
    send = Goal(
        kind="transfer",
        asks=(f"Send 30 from the account of {source} to the account of {target}.",) * 2,
        vague=f"Move balance from the account of {source} to the account of {target}.",
        missing="amount",
        missing_value="30",
        missing_argument="amount",
        steps=(Step("send_money", {"from": source, "to": target, "amount": 30}),),
        criterion="the money has moved",
        facts=(source, str(before[0] - 30)),
        answer=f"Done. The balance of the account of {source} is now <value>.",
        report="balance",
        checkpoints=(
            Checkpoint("accounts", source, {"balance": before[0] - 30}),
            Checkpoint("accounts", target, {"balance": before[1] + 30}),
        ),
    )
    read = Goal(
        kind="read",
        asks=(f"What is the balance of the account of {target}?",) * 2,
        steps=(Step("get_account", {"owner": target}),),
        criterion="the balance is told",
        facts=(target, str(before[1] + 30)),
        answer=f"The balance of the account of {target} is <value>.",
        report="balance",
    )
    return Task(
        agent_id="a", domain="bank", system_prompt="You are a bank clerk.", tools=("get_account", "send_money"),
        world_seed=SEED, goals=(send, read), difficulty="medium", max_turns=10, id="t", split="train",
    )  # fmt: skip


@pytest.fixture
def perfect(bank):
    """The lines of a perfect run, in the order of `bank`'s goals."""
    send, read = bank.goals
    return [
        [("send_money", send.steps[0].arguments)],
        [("get_account", read.steps[0].arguments)],
        f"{send.answer.replace('<value>', send.facts[1])} {read.answer.replace('<value>', read.facts[1])}",
    ]
