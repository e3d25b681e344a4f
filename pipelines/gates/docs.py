"""Data Docs: Great Expectations' own pages with the latest verdict on every table of a profile.

Great Expectations' pages fetch style sheets, scripts and counting images from ten hosts. This module removes those and
puts a small style sheet into the page, so that it looks the same offline.
"""

import html
import re
from pathlib import Path
from typing import Any

from engine.artifacts.files import object_if_sound, write_atomic
from engine.remedy import move_aside
from pipelines.gates import internals

_FOREIGN = re.compile(
    r"<script\b[^>]*>.*?</script>|<link\b[^>]*>|<img\b[^>]*>|<style\b[^>]*>.*?</style>|"
    r"<(?P<bar>nav|footer)\b[^>]*>.*?</(?P=bar)>|<a\b[^>]*https?://[^>]*>.*?</a>",
    re.DOTALL | re.IGNORECASE,
)
_BROKEN_LINK = re.compile(r"<a\b[^>]*(?:\.\./expectations/|data-toggle=)[^>]*>(.*?)</a>", re.DOTALL)
_STYLE = """<style>
body{font:15px/1.5 system-ui,sans-serif;color:#1d2733;max-width:70rem;margin:2rem auto;padding:0 1.5rem}
table{border-collapse:collapse;width:100%;margin:.6rem 0}th,td{border-bottom:1px solid #dde3ea;padding:.35rem .6rem;
text-align:left;vertical-align:top}th{background:#f3f6f9}.fa-check-circle::before{content:"✔";color:#1a7f37}
.fa-times::before,.fa-exclamation-triangle::before{content:"✘";color:#c5221f}.badge-secondary,.badge-info,code{background:#eef2f6;
border-radius:.25rem;padding:0 .3rem}a{color:#1558b0}.refused{color:#c5221f;font-weight:600}.passed{color:#1a7f37}
.modal,.popover,.card,button,.ge-navigation-sidebar-container,.ge-actions-validation-result{display:none}
</style>"""


def write_docs(runs: Path) -> Path:
    """Render the page of every gate report below `runs`, and their index.

    Args:
        runs: data/<profile>/.runs.

    Returns:
        The index page.

    """
    folder = runs / "data_docs"
    files = [(path, object_if_sound(path, move_aside(path))) for path in sorted(runs.glob("*/gates/*.json"))]
    reports = [(path, report) for path, report in files if report]
    for path, report in reports:
        page = folder / f"{report['dataset']}.html"
        if not page.exists() or page.stat().st_mtime_ns <= path.stat().st_mtime_ns:
            write_atomic(page, render(report).encode())
    index = folder / "index.html"
    write_atomic(index, _index([report for _, report in reports]).encode())
    return index


def render(report: dict[str, Any]) -> str:
    """Return one table's page: Great Expectations' rendering of its validation result, without foreign hosts."""
    page = internals.page_of(report["result"])
    body = _BROKEN_LINK.sub(r"\1", _FOREIGN.sub("", page)).replace("</head>", f"{_STYLE}</head>", 1)
    profile = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(value))}</td></tr>"
        for name, value in sorted(report["profile"].items())
    )
    table = f"<h2>Profile</h2><table><tr><th>Statistic</th><th>Value</th></tr>{profile}</table>"
    return body.replace("</body>", f"{table}<p><a href='index.html'>All tables</a></p></body>", 1)


def _index(reports: list[dict[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td><a href='{html.escape(report['dataset'])}.html'>{html.escape(report['dataset'])}</a></td>"
        f"<td class='{'passed' if report['passed'] else 'refused'}'>{'passed' if report['passed'] else 'refused'}</td>"
        f"<td>{report['profile']['row_count']}</td><td>{len(report['expectations'])}</td>"
        f"<td>{html.escape('; '.join(report['failures']))}</td></tr>"
        for report in reports
    )
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Gates</title>{_STYLE}</head><body>"
        "<h1>Gates</h1><p>The latest verdict on every table that leaves a data stage.</p><table><tr><th>Table</th>"
        f"<th>Verdict</th><th>Rows</th><th>Expectations</th><th>Failures</th></tr>{rows}</table></body></html>"
    )
