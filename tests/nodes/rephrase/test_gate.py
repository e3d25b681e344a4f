import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nodes.rephrase.gate import copied, judge
from nodes.rephrase.schema import GateLimits

LIMITS = GateLimits(max_lost_words=0.12, max_new_words=0.25, max_copied=0.85, shortest=0.5)
SOURCE = (
    "In 1541, the Spanish established the Captaincy General of Chile, which lasted until Chile declared its "
    "independence in 1810. The country has 19,091,343 inhabitants and two coasts. It is not a member of OPEC. "
    "Exports rose by 4.5% in 2023, while the public debt stayed below 40% of GDP."
)
FAITHFUL = (
    "The Spanish set up the Captaincy General of Chile in 1541; this lasted until Chile proclaimed its independence "
    "in 1810. Two coasts and 19,091,343 inhabitants are what the country has. It isn't a member of OPEC. In 2023 "
    "exports rose by 4.5%, whereas the public debt remained below 40% of GDP."
)
SUM = "5 - 1 - 1 + 5: 5 - 1 = 4; 4 - 1 = 3; 3 + 5 = 8. Answer: 8"
SUM_NOTE = "To work out 5 - 1 - 1 + 5, go from left to right. First 5 - 1 = 4, then 4 - 1 = 3, then 3 + 5 = 8. So 8."


def reasons(rewrite, source=SOURCE, **more):
    return judge(source, rewrite, LIMITS, **more)


def kinds(rewrite, source=SOURCE):
    return {reason.split(":")[0] for reason in reasons(rewrite, source)}


def test_a_faithful_rewrite_passes():
    assert reasons(FAITHFUL) == []
    assert reasons(SUM_NOTE, SUM) == []


def numbers_in(text):
    return list(re.finditer(r"(?<![\d.,])\d[\d,]*(?:\.\d+)?", text))


@pytest.mark.parametrize(("source", "rewrite"), [(SOURCE, FAITHFUL), (SUM, SUM_NOTE)])
@given(data=st.data())
def test_any_changed_number_is_refused(source, rewrite, data):
    """Whatever number is put in the place of another, the gate says so."""
    match = data.draw(st.sampled_from(numbers_in(rewrite)))
    changed = data.draw(st.one_of(st.integers(0, 99_999_999).map(str), st.decimals(0, 999, places=2).map(str)))
    assume(changed.replace(",", "") != match[0].replace(",", ""))
    assert reasons(rewrite[: match.start()] + changed + rewrite[match.end() :], source)


@given(data=st.data())
def test_any_changed_digit_is_refused(data):
    at = data.draw(st.sampled_from([n for n, character in enumerate(FAITHFUL) if character.isdigit()]))
    digit = data.draw(st.sampled_from([d for d in "0123456789" if d != FAITHFUL[at]]))
    assert reasons(FAITHFUL[:at] + digit + FAITHFUL[at + 1 :])


@given(data=st.data())
def test_any_number_left_out_or_added_is_refused(data):
    match = data.draw(st.sampled_from(numbers_in(FAITHFUL)))
    assert reasons(FAITHFUL[: match.start()] + FAITHFUL[match.end() :])
    assert reasons(f"{FAITHFUL} It has {data.draw(st.integers(0, 10**6))} lakes.")


@given(st.permutations(re.findall(r"\d[\d,.]*\d", FAITHFUL)))
def test_numbers_that_change_places_between_facts_are_refused(order):
    original = re.findall(r"\d[\d,.]*\d", FAITHFUL)
    population = original.index("19,091,343")
    assume(order[population] != original[population])  # it stands in a sentence of its own
    parts = iter(order)
    assert reasons(re.sub(r"\d[\d,.]*\d", lambda match: next(parts), FAITHFUL))


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("OPEC", "NATO", "name_lost"),
        ("OPEC", "OPEC and NATO", "name_invented"),
        ("isn't", "is", "negation_changed"),
        ("exports rose", "exports fell", "direction_changed"),
        ("exports rose", "imports rose", "direction_changed"),
        ("below", "above", "direction_changed"),
        ("Two coasts", "Three coasts", "number_lost"),
        ("It isn't a member of OPEC. ", "", "name_lost"),
        ("Two coasts and", "Dad and", "number_lost"),
    ],
)
def test_changed_facts_are_refused(old, new, kind):
    assert old in FAITHFUL
    assert kind in kinds(FAITHFUL.replace(old, new))


def test_failures_of_a_small_model_are_refused():
    source = "Marie Curie, born in 1867, won the Nobel Prize with her husband Pierre Curie in 1903."
    for rewrite in (
        "Marie Curie, born in 1879, was born in 1879 to Marie Curie and Pierre Curie.",
        "In 2017, she was awarded the 2018 Nobel Memorial Prize in Physics.",
        "Marie Curie, born in 1903, won the Nobel Prize with her husband Pierre Curie in 1867." * 2,
        "",
        "The passage is about a woman.",
        "won the Nobel Prize with her husband. " * 8,
    ):
        assert reasons(rewrite, source), rewrite


def test_numbers_in_another_record_are_refused():
    source = "Population, male: 3,890\nPopulation, female: 3,702"
    assert reasons("The male population is 3,890.\nThe female population is 3,702.", source) == []
    swapped = reasons("The male population is 3,702.\nThe female population is 3,890.", source)
    assert [reason.split(":")[0] for reason in swapped] == ["number_moved", "number_moved"]


def test_an_answer_belongs_to_its_question():
    source = "Population, male: 3,890\nPopulation, female: 3,702"
    template = "Q: What is the male population?\nA: {}.\nQ: What is the female population?\nA: {}."
    assert judge(source, template.format("3,890", "3,702"), LIMITS, longest=4.0) == []
    assert judge(source, template.format("3,702", "3,890"), LIMITS, longest=4.0)


def test_a_loop_and_a_length_out_of_bounds_are_refused():
    assert "length" in {reason.split(":")[0] for reason in reasons(FAITHFUL + " " + FAITHFUL * 2)}
    loop = "A wrapper for exposing the real transport sockets. " * 6
    assert any("repetition" in one for one in judge(loop[:51], loop, LIMITS, longest=9.0))


def test_the_title_is_part_of_the_source():
    source, rewrite = "Symbol: Fe\nDensity: 7.87 g/cm3", "The symbol of Iron is Fe. Its density is 7.87 g/cm3."
    assert judge(source, rewrite, LIMITS, title="Iron: Chemical element") == []
    assert "name_invented" in kinds(rewrite, source)


def test_a_copy_is_refused_as_a_whole():
    assert copied(SOURCE, SOURCE, LIMITS)
    assert copied(SOURCE, FAITHFUL, LIMITS) == []


@given(st.text(max_size=200), st.text(max_size=200))
def test_the_gate_never_stumbles(source, rewrite):
    judge(source, rewrite, LIMITS)
    copied(source, rewrite, LIMITS)


@given(st.text(alphabet="abcdef ABC123.,-=+\n", max_size=120))
def test_every_text_is_faithful_to_itself_but_for_its_form(text):
    assert {reason.split(":")[0] for reason in judge(text, text, LIMITS)} <= {"equation_false", "length"}
