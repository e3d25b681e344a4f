"""The judge accepts a perfect run and rejects every kind of defect, each by its own check."""

import json
from dataclasses import replace

import pytest

from engine.errors import UserError
from engine.toolworld import FaultRates, Goal, Step, Task, World, persona, run_episode
from engine.toolworld.messages import assistant, tool_call

BRIEF, VAGUE, STEPWISE = persona("brief"), persona("vague"), persona("stepwise")


def failed(verdict):
    return {check.name for check in verdict.checks if not check.passed}


def test_a_perfect_run_passes_with_full_score(bank, perfect, script):
    messages, verdict = run_episode(bank, script(*perfect), 0, BRIEF)
    assert (verdict.passed, verdict.score, verdict.reasons) == (True, 1.0, [])
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "tool", "assistant", "tool", "assistant"]
    assert messages[3]["tool_call_id"] == messages[2]["tool_calls"][0]["id"] == "functions.send_money:0"
    assert messages[4]["tool_calls"][0]["id"] == "functions.get_account:1"


def test_parallel_calls_count_on_within_the_dialogue(bank, perfect, script):
    lines = [[*perfect[0], *perfect[1]], perfect[2]]
    messages, verdict = run_episode(bank, script(*lines), 0, BRIEF)
    assert verdict.passed
    assert [call["id"] for call in messages[2]["tool_calls"]] == ["functions.send_money:0", "functions.get_account:1"]


def test_a_vague_user_gets_a_question_and_a_stepwise_one_is_served_in_turn(bank, perfect, script):
    sent, tail = perfect[2].rsplit(" The balance", 1)
    lines = ["Which amount?", perfect[0], sent, perfect[1], "The balance" + tail]
    messages, verdict = run_episode(bank, script(*lines), 0, VAGUE)
    assert verdict.passed, verdict.reasons
    assert [m["content"] for m in messages if m["role"] == "user"][1] == "30."
    _, verdict = run_episode(bank, script(*lines[1:]), 0, STEPWISE)
    assert verdict.passed, verdict.reasons


def defects(bank, perfect):
    send, read = bank.goals[0].steps[0].arguments, bank.goals[1].steps[0].arguments
    good = perfect
    wrong_value = good[2].replace(bank.goals[1].facts[1], "77")
    return {
        "wrong amount": ([[("send_money", {**send, "amount": 40})], *good[1:]], {"state", "arguments_grounded"}),
        "wrong receiver": ([[("send_money", {**send, "to": "Zed"})], *good[1:]], {"state", "tool_pattern"}),
        "turned round": ([[("send_money", {**send, "from": send["to"], "to": send["from"]})], *good[1:]], {"state"}),
        "never sent": ([good[1], good[2]], {"state", "tool_pattern"}),
        "never read": ([good[0], good[2]], {"tool_pattern", "facts"}),
        "sent twice": ([good[0], *good], {"state", "no_unasked_write"}),
        "sent and sent back": (
            [good[0], [("send_money", {**send, "from": send["to"], "to": send["from"]})], *good], {"no_unasked_write"},
        ),
        "made-up value": ([*good[:2], wrong_value], {"facts", "answers_grounded"}),
        "value left out": ([*good[:2], "Done. All is well."], {"facts"}),
        "made-up name": ([*good[:2], good[2] + " B, C, D, E, F, G, H and J too."], {"answers_grounded"}),
        "undeclared tool": ([[("list_accounts", {"status": "open"})], *good], {"calls_valid"}),
        "unknown tool": ([[("fly", {})], *good], {"calls_valid"}),
        "bad schema": ([[("get_account", {"name": read["owner"]})], *good], {"calls_valid"}),
        "no answer": ([good[0], good[1], " "], {"finished", "facts"}),
        "never stops": ([good[1]] * 30, {"finished"}),
    }  # fmt: skip


DEFECT_NAMES = [
    "wrong amount", "wrong receiver", "turned round", "never sent", "never read", "sent twice", "sent and sent back",
    "made-up value", "value left out", "made-up name", "undeclared tool", "unknown tool", "bad schema", "no answer",
    "never stops",
]  # fmt: skip


def test_every_defect_has_its_case(bank, perfect):
    assert list(defects(bank, perfect)) == DEFECT_NAMES


@pytest.mark.parametrize("name", DEFECT_NAMES)
def test_each_defect_is_rejected_by_its_check(bank, perfect, script, name):
    lines, checks = defects(bank, perfect)[name]
    _, verdict = run_episode(bank, script(*lines), 0, BRIEF)
    assert not verdict.passed
    assert checks <= failed(verdict), verdict.reasons
    assert verdict.score < 1


def test_a_guess_of_the_withheld_detail_is_rejected_even_when_it_is_right(bank, perfect, script):
    _, verdict = run_episode(bank, script(*perfect), 0, VAGUE)
    assert "arguments_grounded" in failed(verdict)


def test_the_value_of_another_moment_is_a_contradiction(bank, perfect, script):
    old = str(World("bank", bank.world_seed).state["accounts"][bank.goals[1].facts[0]]["balance"])
    late = f"{perfect[2]} The balance of the account of {bank.goals[1].facts[0]} is {old}."
    lines = [perfect[1], *perfect[:2], late]
    _, verdict = run_episode(bank, script(*lines), 0, BRIEF)
    assert "facts" in failed(verdict)


def test_a_right_value_before_any_call_is_a_guess(bank, perfect, script):
    sent, tail = perfect[2].rsplit(" The balance", 1)
    lines = ["Which amount?", f"{sent} Wait.", perfect[0], perfect[1], perfect[2]]
    _, verdict = run_episode(bank, script(*lines), 0, VAGUE)
    assert not verdict.passed
    early = "The balance" + tail
    _, verdict = run_episode(bank, script(early, perfect[0], perfect[1], perfect[2]), 0, STEPWISE)
    assert any("before any call" in reason for reason in verdict.reasons)


def test_a_wrong_value_beside_a_listing_of_that_value_is_a_contradiction(script):
    tools = ("get_card", "list_cards")
    state = World("bank", 3).state["cards"]
    key, other = next((k, o) for k in state for o in state if state[k]["state"] != state[o]["state"])
    value, wrong = state[key]["state"], state[other]["state"]
    listed = [k for k in state if state[k]["state"] == wrong]
    task = Task(
        "a", "bank", "You are a bank clerk.", tools, 3,
        (
            Goal("list", (f"Which cards have state {wrong}?",), (Step("list_cards", {"state": wrong}),), "listed",
                 (wrong, *listed), "", report="list"),
            Goal("read", (f"What is the state of the {key} card?",), (Step("get_card", {"card": key}),), "told",
                 (key, value), "", report="state"),
        ),
        "medium", 10, id="t",
    )  # fmt: skip
    calls = [[("list_cards", {"state": wrong}), ("get_card", {"card": key})]]
    listing = f"Cards with state {wrong}: {', '.join(listed)}."
    assert run_episode(task, script(*calls, f"{listing} The state of the {key} card is {value}."), 0, BRIEF)[1].passed
    both = f"{listing} The state of the {key} card is {value}. The state of the {key} card is {wrong}."
    assert failed(run_episode(task, script(*calls, both), 0, BRIEF)[1]) == {"facts"}


def test_one_call_too_many_costs_score_and_not_the_pass(bank, perfect, script):
    _, verdict = run_episode(bank, script(perfect[1], *perfect), 0, BRIEF)
    assert verdict.passed
    assert failed(verdict) == {"economy"}
    strict = replace(bank, pass_score=1.0)
    assert not run_episode(strict, script(perfect[1], *perfect), 0, BRIEF)[1].passed


def test_malformed_json_and_restarted_ids_are_invalid_calls(bank, perfect, script):
    def broken(messages, tools):
        return assistant("", [tool_call("get_account", '{"owner"', 0)])

    def restarted(messages, tools):
        return assistant("", [tool_call("get_account", json.dumps(dict(perfect[1][0][1])), 0)])

    for odd in (broken, restarted):
        run = script(*perfect)
        agent = lambda m, t, odd=odd, run=run: odd(m, t) if len(m) == (2 if odd is broken else 4) else run(m, t)  # noqa: E731
        messages, verdict = run_episode(bank, agent, 0, BRIEF)
        assert "calls_valid" in failed(verdict)
        assert not verdict.passed
    assert messages


def test_faults_need_patience_and_parts_add_up(bank, perfect, script):
    amount = bank.goals[0].steps[0].arguments
    faults = FaultRates(partial=1.0, most=1)
    _, verdict = run_episode(bank, script(*perfect), 0, BRIEF, faults)
    assert {"state", "facts"} <= failed(verdict)
    rest = [("send_money", {**amount, "amount": 15})]
    _, verdict = run_episode(bank, script(perfect[0], rest, *perfect[1:]), 0, BRIEF, faults)
    assert verdict.passed, verdict.reasons


def test_a_task_survives_its_row(bank):
    assert Task.from_row(bank.to_row()) == bank


@pytest.mark.parametrize("rubric", ["", "{}", "[]", '{"goals": [{}]}'])
def test_a_foreign_rubric_is_refused(bank, rubric):
    with pytest.raises(UserError, match="task 't' cannot be read"):
        Task.from_row({**bank.to_row(), "rubric": rubric})


def test_a_task_with_tools_of_another_domain_file_is_refused(bank):
    row = replace(bank, tools=("get_account", "melt_account")).to_row()
    with pytest.raises(UserError, match="melt_account.*`make repro STAGE=tooluse FORCE=1`"):
        Task.from_row(row)


def test_an_unknown_persona_is_refused():
    with pytest.raises(UserError, match="'grumpy' is not a persona; choose among brief"):
        persona("grumpy")
