import json
import re
from html.parser import HTMLParser

import polars as pl
import pytest

from engine.artifacts.files import digest_bytes
from nodes.evaluate.report.abilities import abilities
from nodes.evaluate.report.changes import changes
from nodes.evaluate.report.comparison import SuiteInfo, compare, interval_text_of, value_text_of
from nodes.evaluate.report.content import baselines
from nodes.evaluate.report.sources import count_sources
from nodes.evaluate.report.write import fence, figure_text, markdown_cell, write_report
from nodes.evaluate.results import Row, SuiteResult

VOID = {"meta", "img", "br", "hr", "input", "link"}


class Balanced(HTMLParser):
    """Fails on a tag closed out of turn; collects ids, links, images and text."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.images, self.text = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if "id" in given:
            self.ids.append(given["id"])
        if tag == "a":
            self.links.append(given["href"])
        if tag == "img":
            self.images.append(given)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def written(facts, tmp_path_factory):
    return write_report(facts, tmp_path_factory.mktemp("evaluate") / "report")


def test_every_promised_file_is_there(written):
    files = {str(path.relative_to(written)) for path in written.rglob("*") if path.is_file()}
    assert {"report.md", "report.html", "model_card.md", "samples.md", "table.json"} <= files
    assert {"plots/bits_per_byte.png", "plots/arithmetic.png", "plots/quiz.png", "plots/lengths.png"} <= files


def test_the_first_lines_say_what_the_model_can_and_cannot_do(written):
    first = (written / "report.md").read_text().split("## What each stage changed")[0]
    can = first
    assert "answer sums of the kind it was trained on: " in can
    assert "chance" not in can.split("sums")[1].splitlines()[0]
    assert "Kneser" not in first, "the base checkpoint's own figure is missing, so nothing is claimed"
    assert "keep what pre-training taught: 2.200 (base) and 2.050 (rl) bits a byte" in can
    assert "tools" not in first, "no row, no claim"
    for page in ("report.html", "model_card.md"):
        assert "answer sums of the kind it was trained on" in (written / page).read_text()


@pytest.mark.parametrize(
    ("low", "chance", "can"), [(0.1, 0.03, True), (0.02, 0.03, False), (0.95, None, True), (0.1, None, False)]
)
def test_a_skill_is_claimed_where_the_interval_is_above_guessing(low, chance, can):
    def result(value, low):
        row = Row("tools/success_sampled", "x", value, "share", "higher", 9, low, 0.9, chance)
        return {"tools": SuiteResult((row,))}

    sentences = abilities({"base": result(0.05, 0.0), "rl": result(0.3, low)}, {})
    assert bool(sentences.can) is can
    assert bool(sentences.cannot) is not can
    assert "30.0 %" in (*sentences.can, *sentences.cannot)[0]


@pytest.mark.parametrize(("model", "can"), [(1.5, True), (1.6, False)])
def test_text_is_held_against_counting(model, can):
    sentences = abilities({}, {"validation_bits_per_byte": model, "kneser_ney_5gram_bits_per_byte": 1.521})
    assert bool(sentences.can) is can
    assert "1.521" in (*sentences.can, *sentences.cannot)[0]


def test_rerun_is_byte_identical(facts, written, tmp_path):
    def digests(directory):
        return {p.relative_to(directory): digest_bytes(p.read_bytes()) for p in directory.rglob("*") if p.is_file()}

    assert digests(write_report(facts, tmp_path / "again")) == digests(written)


def test_html_is_whole_and_needs_nothing_else(written):
    page = (written / "report.html").read_text()
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert all(link[1:] in parser.ids for link in parser.links if link.startswith("#"))
    assert all((written / link).is_file() for link in parser.links if not link.startswith("#"))
    assert parser.images
    assert all(image["src"].startswith("data:image/png;base64,") and image["alt"] for image in parser.images)
    assert not re.search(r"https?://", re.sub(r"\{[^}]*\}", "", page))
    assert "<script>" not in page  # a sample's text is text
    assert {"changes", "comparison", "plots", "samples", "recipe", "data", "published"} <= set(parser.ids)
    for wanted in (
        "Kneser–Ney 5-gram",
        "PSF-2.0",
        "not comparable",
        "4-1-7=",
        "(nothing)",
        "How quiz <is> measured.",
        "call id 'a|b' is <odd>",
    ):
        assert wanted in "".join(parser.text), wanted


def test_markdown_tables_have_as_many_cells_in_every_row(written):
    for name in ("report.md", "model_card.md"):
        for block in re.findall(r"(?:^\|.*\n)+", (written / name).read_text(), re.MULTILINE):
            widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
            assert len(widths) == 1, block
            assert re.match(r"\|[-:|]+\|$", block.splitlines()[1]), block


def test_markdown_has_all_sections(written):
    report, card = (written / "report.md").read_text(), (written / "model_card.md").read_text()
    for heading in ("What each stage changed", "Comparison", "Plots", "Published scores"):
        assert f"## {heading}" in report
    for heading in (
        "Intended use",
        "Not for",
        "Architecture",
        "Training data",
        "Training recipe",
        "Evaluation",
        "Limits",
    ):
        assert f"## {heading}" in card
    assert "1,234,567" in card
    assert "a\\|b" in card


def test_no_clock_and_no_path(written):
    for path in written.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert str(written.parent).encode() not in content
            assert not re.search(rb"20\d\d-\d\d-\d\d[T ]\d\d:", content)


def test_table_json_holds_every_figure(written, facts):
    table = json.loads((written / "table.json").read_text())
    row = facts.results["rl"]["arithmetic"].rows[0]
    assert table["arithmetic"]["arithmetic/sampled"]["checkpoints"]["rl"] == {
        "value": row.value, "low": row.low, "high": row.high, "n": 200,
    }  # fmt: skip
    assert set(table["lengths"]["lengths/beyond"]["checkpoints"]) == {"base", "extended"}


def test_best_respects_the_direction(facts):
    sections = {section.suite.name: section for section in compare(facts.results, facts.suites)}
    assert sections["bits_per_byte"].lines[0].best == ("rl",)
    assert sections["lengths"].lines[0].best == ("extended",)
    assert sections["quiz"].lines[0].best == ()  # all alike: none is best
    assert "samples" not in sections


def test_changes_call_only_clear_differences(facts):
    by_step = {(c.metric, c.before): c for c in changes(facts.results, facts.suites, 1)}
    gain = by_step["arithmetic/sampled", "sft"]
    assert gain.verdict == "better"
    assert gain.difference.low > 0
    assert by_step["quiz/all", "sft"].verdict == "unclear"
    assert by_step["bits_per_byte/all", "base"].verdict == "better"
    assert by_step["bits_per_byte/all", "base"].difference.value == pytest.approx(-0.05)


def test_a_difference_known_from_one_document_is_unclear_and_has_no_ends():
    def result_of(bits):
        row = Row("bits_per_byte/all", "all text", bits / 8, "bits/byte", "lower", 1)
        return {"bits": SuiteResult((row,), {"bits_per_byte/all": [[bits], [8.0]]})}

    (change,) = changes({"base": result_of(16.0), "sft": result_of(4.0)}, [SuiteInfo("bits", "Text", "")], 1)
    assert change.verdict == "unclear"
    assert change.interval_text == "unknown from one item"


def test_results_survive_json(facts):
    for result in facts.results["base"].values():
        assert SuiteResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_figures_are_written_in_their_unit():
    share = Row("m", "l", 0.4567, "share", "higher", 9, 0.4, 0.5)
    assert (value_text_of(share), interval_text_of(share)) == ("45.7 %", "40.0–50.0")
    bits = Row("m", "l", 2.34567, "bits/byte", "lower", 9)
    assert (value_text_of(bits), interval_text_of(bits)) == ("2.346", "")
    assert [figure_text(v) for v in (1234567, 0.000123456, 3.0, True, "x")] == [
        "1,234,567",
        "0.0001235",
        "3",
        "True",
        "x",
    ]
    assert markdown_cell("a|b\nc") == "a\\|b c"
    assert fence("``` in it").startswith("````text\n")


def test_baselines_are_sorted_and_optional():
    assert baselines({}) == []
    figures = baselines({"bigram_bits_per_byte": 2.5, "kneser_ney_5gram_bits_per_byte": 2.7})
    assert [value for _, value in figures] == [2.7, 2.5]


def test_sources_are_counted_largest_first():
    frame = pl.DataFrame(
        {"source": ["a", "a", "b"], "domain": ["web"] * 3, "license": ["x"] * 3, "n_bytes": [5, 7, 90]}
    )
    assert [(s.source, s.documents, s.bytes) for s in count_sources(frame.lazy())] == [("b", 1, 90), ("a", 2, 12)]
