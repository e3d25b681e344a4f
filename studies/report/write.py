"""Write the pages of the studies: docs/studies/<name>.md and .png, and the table of all in README.md."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from engine.artifacts.files import write_atomic
from studies.registration import Registration
from studies.report.content import Page, arm_rows, criterion_rows, pages, scale_of
from studies.report.plot import draw
from studies.store import read_curves, read_results

TEMPLATES = Path(__file__).with_name("templates")


def publish(registrations: Mapping[str, Registration], results: Path, docs: Path, drawn: str | None) -> dict[str, Page]:
    """Judge the whole table again and write all pages and the index; draw the plot of study `drawn`.

    All pages are written, since Holm's correction makes each verdict depend on the other studies.
    """
    results_by_name = {name: stored for name in registrations if (stored := read_results(results, name)) is not None}
    written = pages(registrations, results_by_name)
    if drawn is not None:
        draw(registrations[drawn].study, read_curves(results, drawn), docs / f"{drawn}.png", drawn.replace("_", " "))
    environment = _environment()
    for name, page in written.items():
        text = environment.get_template("study.md.j2").render(_facts(name, page))
        write_atomic(docs / f"{name}.md", text.encode())
    text = environment.get_template("index.md.j2").render(registrations=registrations, pages=written, line=_line)
    write_atomic(docs / "README.md", text.encode())
    return written


def _facts(name: str, page: Page) -> dict[str, Any]:
    arms = arm_rows(page.study, page.results["runs"])
    return {
        "name": name,
        "page": page,
        "study": page.study,
        "results": page.results,
        "criteria": criterion_rows(page.judged),
        "arms": arms,
        "scale": scale_of(arms),
        "failed": [run for run in page.results["runs"] if run["failed"] is not None],
    }


def _line(page: Page) -> dict[str, str]:
    """Return a study's line in the index."""
    return {
        "verdict": page.verdict if page.explores is None else f"{page.verdict} (exploratory)",
        "p": f"{page.p:.2g}" if page.judged.sampled else "run by run",
        "scale": scale_of(arm_rows(page.study, page.results["runs"])),
        "reason": page.reason,
    }


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = lambda text: " ".join(str(text).split()).replace("|", "\\|")
    return environment
