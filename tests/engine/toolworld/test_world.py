"""The tool simulator: transitions of state against a plain model, faults, refusals."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import UserError
from engine.toolworld import FaultRates, World, load_tools
from engine.toolworld.specs import application_of, load_domains

DOMAINS = list(load_domains())
seeds = st.integers(0, 2**31 - 1)


def some_arguments(draw, tool, world):
    """Arguments that fit the schema; keys are there more often than not."""
    app = application_of(tool)
    present = list(world.state[tool.application])
    arguments = {}
    for name, schema in tool.parameters["properties"].items():
        if schema["type"] == "integer":
            arguments[name] = draw(st.integers(-5, 400))
        elif "enum" in schema:
            arguments[name] = draw(st.sampled_from(schema["enum"]))
        else:
            arguments[name] = draw(st.sampled_from((present or ["nobody"]) * 2 + list(app.keys)))
    return arguments


def expected(tool, before, arguments):
    """The oracle: what the records must be after a full success, or the refusal's text. Written apart from apply.py."""
    app, form = application_of(tool), tool.form
    after = copy.deepcopy(before)
    key = arguments.get(app.key)
    if form.does == "add":
        return "already there" if key in before else {**after, key: dict(arguments)}
    if form.does == "list":
        return after
    if form.does == "transfer":
        a, b, n = arguments["from"], arguments["to"], arguments["amount"]
        if a not in before or b not in before:
            return "not found"
        if n <= 0:
            return "bad amount"
        if a == b:
            return "same name twice"
        if before[a][form.field] < n:
            return "not enough"
        after[a][form.field] -= n
        after[b][form.field] += n
        return after
    if key not in before:
        return "not found"
    if form.does in {"raise", "lower"}:
        if arguments["amount"] <= 0:
            return "bad amount"
        after[key][form.field] += arguments["amount"] * (1 if form.does == "raise" else -1)
        return "not enough" if after[key][form.field] < 0 else after
    if form.does in {"claim", "release"}:
        if before[key][form.field] != form.from_:
            return f"not {form.from_}"
        holder = arguments[form.holder] if form.does == "claim" else ""
        after[key] |= {form.field: form.to, form.holder: holder}
    if form.does == "set":
        after[key][form.field] = arguments[form.field]
    if form.does == "remove":
        del after[key]
    return after


@given(data=st.data(), domain=st.sampled_from(DOMAINS), seed=seeds)
@settings(max_examples=120, deadline=None)
def test_each_call_does_what_the_oracle_does_and_nothing_else(data, domain, seed):
    world = World(domain, seed)
    tools = [tool for tool in load_tools().values() if tool.domain == domain]
    for _ in range(6):
        tool = data.draw(st.sampled_from(tools))
        arguments = some_arguments(data.draw, tool, world)
        before = copy.deepcopy(world.state)
        want = expected(tool, before[tool.application], arguments)
        result = world.call(tool.name, arguments)
        if isinstance(want, str):
            assert (result.outcome, result.value) == ("edge", {"error": want})
            assert world.state == before
        else:
            assert result.outcome == "ok"
            assert world.state == {**before, tool.application: want}
        if not tool.stateful:
            assert world.state == before


@given(domain=st.sampled_from(DOMAINS), seed=seeds)
@settings(max_examples=40, deadline=None)
def test_a_world_is_a_function_of_domain_and_seed(domain, seed):
    one, two = World(domain, seed), World(domain, seed, FaultRates(0.5, 0.5), noise_seed=9)
    assert one.state == two.state
    assert one.diff() == {}
    for app in load_domains()[domain].applications.values():
        for form in app.tools.values():
            if form.does == "claim":
                records = one.state[next(n for n, a in load_domains()[domain].applications.items() if a is app)]
                assert all((r[form.field] == form.to) == bool(r[form.holder]) for r in records.values())


@given(seed=seeds, noise=seeds, amount=st.integers(1, 100))
@settings(max_examples=60, deadline=None)
def test_a_transfer_never_makes_or_loses_money_and_patience_always_gets_it_done(seed, noise, amount):
    world = World("bank", seed, FaultRates(busy=0.5, partial=0.5, most=50), noise_seed=noise)
    source, target = list(world.state["accounts"])[:2]
    total = sum(r["balance"] for r in world.state["accounts"].values())
    wanted, left = world.state["accounts"][source]["balance"] - amount, amount
    for _ in range(40):
        result = world.call("send_money", {"from": source, "to": target, "amount": left})
        assert sum(r["balance"] for r in world.state["accounts"].values()) == total
        if result.outcome == "ok":
            break
        left = result.value.get("left", left)
    assert world.state["accounts"][source]["balance"] == wanted


def test_faults_are_bounded_never_twice_running_and_replay():
    def outcomes(most):
        world = World("hotel", 1, FaultRates(busy=1.0, most=most), noise_seed=3)
        return [world.call("list_rooms", {"status": "free"}).outcome for _ in range(8)]

    assert outcomes(2) == ["busy", "ok", "busy", "ok", "ok", "ok", "ok", "ok"]
    assert outcomes(0) == ["ok"] * 8
    assert outcomes(3) == outcomes(3)


def test_a_listing_may_be_cut_and_then_has_a_mark():
    world = World("hotel", 2, FaultRates(partial=1.0), noise_seed=0)
    result = world.call("list_rooms", {"status": "booked"})
    whole = world.call("list_rooms", {"status": "booked"})
    assert result.outcome == "partial"
    assert result.value["more"] is True
    assert set(result.value["rooms"]) < set(whole.value["rooms"])
    assert json.loads(result.text()) == result.value


@pytest.mark.parametrize(
    ("name", "arguments", "error"),
    [
        ("fly", {}, "no such tool"),
        ("get_room", {"room": "101"}, "no such tool"),  # another domain's
        ("get_account", {}, "bad arguments"),
        ("get_account", {"owner": 3}, "bad arguments"),
        ("get_account", {"owner": "Anna", "x": 1}, "bad arguments"),
        ("list_accounts", {"status": "melted"}, "bad arguments"),
    ],
)
def test_a_bad_call_is_an_answer_and_not_an_exception(name, arguments, error):
    world = World("bank", 5)
    result = world.call(name, arguments)
    assert (result.outcome, result.value) == ("invalid", {"error": error})
    assert world.diff() == {}
    assert len(world.log) == 1


def test_diff_separates_new_changed_and_removed_records():
    world = World("clinic", 4)
    kept, gone = list(world.state["visits"])[:2]
    absent = next(k for k in load_domains()["clinic"].applications["visits"].keys if k not in world.state["visits"])
    other = next(d for d in ("Monday", "Friday") if d != world.state["visits"][kept]["day"])
    world.call("move_visit", {"patient": kept, "day": other})
    world.call("cancel_visit", {"patient": gone})
    world.call("add_visit", {"patient": absent, "day": "Friday", "doctor": "Hill"})
    assert world.diff() == {
        ("visits", kept): {"day": other},
        ("visits", gone): None,
        ("visits", absent): {"patient": absent, "day": "Friday", "doctor": "Hill"},
    }


def test_bad_fault_rates_are_refused():
    with pytest.raises(UserError, match="fault rates"):
        FaultRates(busy=0.7, partial=0.7)
