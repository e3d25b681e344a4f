"""Write the report: plots, then every text from its template. Equal facts give equal bytes."""

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from nodes.evaluate.report.comparison import interval_text_of, number_text, to_json, value_text_of
from nodes.evaluate.report.content import Facts, gather
from nodes.evaluate.report.figures import draw_all

TEMPLATES = Path(__file__).with_name("templates")
PAGES = ("report.md", "report.html", "model_card.md", "samples.md")


def write_report(facts: Facts, directory: Path) -> Path:
    """Write report.md, report.html, model_card.md, samples.md, table.json and plots/ into a new `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    content = gather(facts)
    content["plots"] = draw_all(content["sections"], facts.results, directory / "plots")
    content["images"] = {plot.file: _data_url(directory / "plots" / plot.file) for plot in content["plots"]}
    environment = _environment()
    for page in PAGES:
        text = environment.get_template(f"{page}.j2").render(content)
        (directory / page).write_text(text, encoding="utf-8")
    table = json.dumps(to_json(content["sections"]), indent=1, ensure_ascii=False)
    (directory / "table.json").write_text(table + "\n", encoding="utf-8")
    return directory


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        value=value_text_of,
        interval=interval_text_of,
        number=number_text,
        cell=markdown_cell,
        fence=fence,
        figure=figure_text,
    )
    return environment


def markdown_cell(text: str) -> str:
    """Return text that may be in a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")


def fence(text: str) -> str:
    """Return `text` as a fenced block whose fence is longer than any run of backticks inside it."""
    ticks = "```"
    while ticks in text:
        ticks += "`"
    return f"{ticks}text\n{text}\n{ticks}"


def figure_text(value: Any) -> str:
    """Format a metric of any type: integers with separators, others with four significant figures, None as a dash."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:.4g}"


def _data_url(path: Path) -> str:
    return "data:image/png;base64," + b64encode(path.read_bytes()).decode("ascii")
