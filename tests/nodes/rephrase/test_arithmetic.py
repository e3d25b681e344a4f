import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.rephrase.arithmetic import facts_of, invented_equations, is_true, value

NUMBERS = st.lists(st.integers(0, 99), min_size=1, max_size=6)
OPERATORS = st.lists(st.sampled_from("+-*"), min_size=5, max_size=5)


@given(NUMBERS, OPERATORS)
def test_values_agree_with_python(numbers, operators):
    expression = str(numbers[0]) + "".join(f" {sign} {n}" for sign, n in zip(operators, numbers[1:]))
    assert value(expression) == eval(expression)


@pytest.mark.parametrize(
    ("expression", "expected"), [("7 / 2", 3.5), ("2 × 3 + 1", 7), ("-4 + 1", -3), ("1/0", None), ("1,482 + 1", 1483)]
)
def test_values_of_other_spellings(expression, expected):
    assert value(expression) == expected


def test_a_text_is_read_into_numbers_expressions_and_equations():
    facts = facts_of("In 1,541 (est. 2020-25) we find 754 = 1 × 576 + 178, so 4-1-7=-4 and 3.5% of 8.")
    assert facts.numbers == {"1541": 1, "3.5": 1, "8": 1}
    assert facts.expressions == {"2020-25": 1}
    assert facts.equations == {"754=1*576+178": 1, "4-1-7=-4": 1}
    assert is_true("754=1*576+178")
    assert is_true("4-1-7=-4")
    assert not is_true("4-1-7=4")


@given(st.integers(0, 99), st.integers(0, 99), st.integers(-200, 200))
def test_an_equation_may_come_in_only_if_it_is_true_and_of_known_numbers(a, b, c):
    known = facts_of(f"{a} and {b}")
    reasons = list(invented_equations(known, facts_of(f"{a} + {b} = {c}")))
    assert bool(reasons) == (a + b != c)


def test_results_may_be_used_again_and_foreign_numbers_may_not():
    known = facts_of("4-1-7=-4")
    assert list(invented_equations(known, facts_of("4 - 1 = 3, then 3 - 7 = -4; 4-1-7=-4"))) == []
    assert list(invented_equations(known, facts_of("4-1-7=-4, and 5 + 5 = 10"))) == ["equation_invented: 5+5=10"]
    assert list(invented_equations(known, facts_of("4-1-7=-4, and 4 - 1 = 2"))) == ["equation_false: 4-1=2"]
