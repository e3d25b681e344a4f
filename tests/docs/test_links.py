"""Every link of the README and the pages leads to a file of the repository, and to a heading where it names one; and
every file of the code that they name between backticks is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "data" / "README.md"])
LINK = re.compile(r"\]\(([^)\s]+)\)")
NAMED = re.compile(
    r"`((?:benchmarks|conf|dags|docs|engine|kernels|nodes|pipelines|requirements|studies|tests)/[\w./-]+)`"
)


def broken(page: Path, text: str) -> list[str]:
    """The links of a page's `text` that lead nowhere; addresses are left to whoever follows them."""
    return [link for link in LINK.findall(text) if not link.startswith("http") and not leads(page, link)]


def leads(page: Path, link: str) -> bool:
    """Whether a relative link leads to a file, and to a heading of it where it names one."""
    path, _, heading = link.partition("#")
    target = page.parent / path if path else page
    if not target.exists():
        return False
    return not heading or heading in {anchor(line) for line in target.read_text(encoding="utf-8").splitlines()}


def anchor(line: str) -> str:
    """What GitHub calls a heading in an address; "" for any other line."""
    heading = re.fullmatch(r"#+ (.*)", line)
    return re.sub(r"[^\w\- ]", "", heading[1].lower()).replace(" ", "-") if heading else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page, page.read_text(encoding="utf-8")) == []


def test_a_link_that_leads_nowhere_is_noticed() -> None:
    text = "[a](docs/nowhere.md), [b](CHANGELOG.md), [c](CHANGELOG.md#nothing), [d](https://arxiv.org)"
    assert broken(ROOT / "README.md", text) == ["docs/nowhere.md", "CHANGELOG.md#nothing"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_are_there(page: Path) -> None:
    named = NAMED.findall(page.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists() and not name.endswith("dvc.lock")] == []


def test_file_names_are_found() -> None:
    assert NAMED.findall("`engine/errors.py`, `conf/<profile>/compute.yml`, `nodes/`, engine/x.py") == [
        "engine/errors.py"
    ]
