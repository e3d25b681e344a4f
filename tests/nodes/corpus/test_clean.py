import polars as pl
import pytest

from nodes.corpus.clean import normal_form, refusal
from nodes.corpus.schema import Quality

WEB = Quality(
    min_bytes=20,
    min_letters=0.5,
    max_digits=0.3,
    min_stop_words=0.08,
    max_foreign=0.1,
    max_line_bytes=200,
    max_repeated_lines=0.3,
)


def reason(text):
    return pl.DataFrame({"domain": ["web"], "text": [text]}).select(refusal({"web": WEB})).item()


def normal(text):
    return pl.select(normal_form(pl.lit(text))).item()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("This is a plain sentence of the kind that is wanted.", None),
        ("Too short.", "too_short"),
        ("the of a to " + "*#$ " * 40, "few_letters"),
        ("this is the table of a list of numbers that were counted " + "12345 67890 " * 3, "data_table"),
        ("это предложение написано по-русски и на другом языке", "foreign_script"),
        ("zebra apple cloud window mountain river stone bottle", "not_english"),
        ("this is the line " * 20, "long_line"),
        ("this is a line of it\n" * 5 + "and that is the other\n", "repeated_lines"),
    ],
)
def test_each_reason_has_its_text(text, expected):
    assert reason(text) == expected


def test_the_normal_form_is_one_and_stays():
    text = "\ufeffcafe\u0301\x00 \r\nnext\u200b line  \n\n\n\n\n\nend  \n\n"
    once = normal(text)
    assert once == "café\nnext line\n\n\nend"
    assert normal(once) == once


def test_indentation_of_the_first_line_stays():
    assert normal("\n\n    indented") == "    indented"
