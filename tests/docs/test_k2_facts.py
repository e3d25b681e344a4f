"""docs/k2-facts.md: every citation of it leads to a heading or a row, and its tables say what the code computes."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.nodes import text

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "k2-facts.md"
TEXT = PAGE.read_text(encoding="utf-8")
PLACE = re.compile(r"C\d+|row \d+|\d+(?:\.\d+)?")


def places(line: str) -> list[str]:
    """What the citations of a line name: sections ("2.1"), conflicts ("C3") and claims ("row 7")."""
    cited = [re.split(r"[;:()\"]", rest, maxsplit=1)[0] for rest in line.split("k2-facts")[1:]]
    return [place for rest in cited if not rest.startswith((".md", ".py")) for place in PLACE.findall(rest) or ["none"]]


def citations() -> list[tuple[str, str]]:
    """(file and line, place) of every citation in the repository."""
    listing = subprocess.run(
        ["git", "grep", "-nI", "--untracked", "k2-facts", "--", ".", ":!docs/k2-facts.md", ":!tests/docs"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    lines = [line.split(":", 2) for line in listing.splitlines()]
    return [(f"{path}:{number}", place) for path, number, words in lines for place in places(words)]


def section(number: str) -> str:
    """The text of a section of the page, up to the next heading."""
    heading = re.search(rf"^##+ {re.escape(number)}\.? .*$", TEXT, re.MULTILINE)
    assert heading, f"docs/k2-facts.md has no section {number}"
    return re.split(r"^##+ ", TEXT[heading.end() :], maxsplit=1, flags=re.MULTILINE)[0]


def resolves(place: str) -> bool:
    """Whether the page has this section, conflict or claim."""
    if place.startswith("C"):
        return f"\n| {place} |" in section("0.2")
    if place.startswith("row "):
        return f"\n| {place.removeprefix('row ')} |" in section("10")
    return re.search(rf"^##+ {re.escape(place)}\.? ", TEXT, re.MULTILINE) is not None


def test_every_citation_leads_somewhere() -> None:
    cited = citations()
    assert len(cited) > 28, "the citations were not found"
    lost = [f"{where} cites {place}" for where, place in cited if not resolves(place)]
    assert not lost, "docs/k2-facts.md has no such section or row: " + "; ".join(lost)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("reset (k2-facts 2.1, Nesterov 2.2). 0.5", ["2.1", "2.2"]),
        ("# as published (k2-facts 1.1, 3): 1,026 parameters", ["1.1", "3"]),
        ("source: section 2.1; k2-facts C3 and section 10 row 11", ["C3", "10", "row 11"]),
        ("k2-facts 2.1 (row 7's limit)", ["2.1"]),
        ("see docs/k2-facts.md", []),
        ("as in k2-facts", ["none"]),
    ],
)
def test_a_citation_is_read_as_people_write_it(line: str, named: list[str]) -> None:
    assert places(line) == named


@pytest.mark.parametrize("place", ["2.9", "12", "C99", "row 99", "none"])
def test_a_citation_that_leads_nowhere_is_noticed(place: str) -> None:
    assert not resolves(place)


def test_the_architecture_is_the_k2_profile_s() -> None:
    model = text.parameters("pretrain", "k2")["model"]
    cells = re.findall(r"`(\w+)`[^|]*\| ([\d.e-]+)(?= |$)", section("1.1"), re.MULTILINE)
    stated = {name: float(value) for name, value in cells if name in model}
    assert stated.keys() >= {"hidden_size", "n_routed_experts", "kv_lora_rank", "rope_theta", "rms_norm_eps"}
    assert {name: float(model[name]) for name in stated} == stated
    assert {name for name, value in model.items() if value is not None} == stated.keys()


def test_the_table_of_parameters_is_the_code_s() -> None:
    from engine.model.parameters import config_from_parameters
    from engine.model.size import n_params

    rows = n_params(config_from_parameters(text.parameters("pretrain", "k2")["model"], 163_840, 4096))
    numbers = re.findall(r"\| \**([\d,]{9,}|881,664)\** \| \**([\d,]+)\**", section("1.4"))
    stated = sorted((int(total.replace(",", "")), int(active.replace(",", ""))) for total, active in numbers)
    assert stated == sorted((row.total, row.active) for row in rows)


def test_the_table_of_flops_is_the_code_s() -> None:
    from engine.model.flops import flops_per_token
    from engine.model.parameters import config_from_parameters

    config = config_from_parameters(text.parameters("pretrain", "k2")["model"], 163_840, 4096)
    rows = re.findall(r"\| ([\d,]+) \| ([\d.]+) GFLOP \| ([\d.]+) GFLOP", section("1.5"))
    assert len(rows) == 3
    for length, attention, training in rows:
        counted = flops_per_token(config, int(length.replace(",", "")))
        assert (f"{counted.attention / 1e9:.1f}", f"{counted.training / 1e9:.1f}") == (attention, training)


def test_the_schedule_is_the_code_s() -> None:
    from engine.optim.schedule import K2, K2_STEP

    for tokens in (*(phase.length for phase in K2.phases[:3]), 4 * 10**11, 6 * 10**10):
        assert f"| {round(tokens / K2_STEP):,} |" in section("3")
    assert f"{K2.lr(11 * 10**12):.2e}".replace("e-0", "e-") in section("3")
    assert f"{K2.lr(15 * 10**12):.2e}".replace("e-0", "e-") in section("3")
