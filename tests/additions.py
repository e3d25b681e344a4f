"""The additions that docs/how-to.md shows, put into a scratch copy of the repository exactly as the page has them."""

import re

from tests.project import ROOT, Project

PAGE = (ROOT / "docs" / "how-to.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(?:python|yaml)\n# (?P<file>\S+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
BEFORE = {
    "kedro.yml": "  evaluate: {",
    "pipelines/stages/evaluate.py": '                },\n                outputs=["report"',
    "nodes/corpus/sources.py": "if TYPE_CHECKING:\n    Source =",
}
"""What an addition stands before, as the page says in words; elsewhere it stands at the end of its file."""
DOUBLED = {
    "get_account": "balance", "get_card": "limit", "get_item": "count", "get_room": "price", "get_device": "level",
    "get_box": "weight", "get_drug": "stock", "get_book": "length", "get_student": "score", "get_file": "size",
    "get_user": "quota",
}  # fmt: skip
"""The page's operation becomes a tool `double_<field>` beside these, which read the records that have the field."""
NOTE = (
    "The harbour of the old town is small, and most of the boats that lie in it belong to families who have fished "
    "along this coast for a hundred years. In the morning they leave before the sun is up, and by noon they are back "
    "with what the sea has given them, which is sold on the quay to whoever comes first."
)
SOURCE = (
    f"    notes: {{kind: written, domain: web, license: CC0-1.0, max_bytes: 10000, texts: {{harbour: {NOTE!r}}}}}\n"
)


def shown() -> list[tuple[str, str]]:
    """The files that the page names in its examples, each with what is to be written there."""
    return [(block["file"], block["text"]) for block in BLOCK.finditer(PAGE)]


def add_all(project: Project) -> None:
    """Add a stage in a group of its own, its checkpoint, a source kind, an operation and a plot; use each once."""
    for name, text in shown():
        path = project.path / name
        if name in BEFORE:
            gap = "\n\n" if name == "nodes/corpus/sources.py" else ""
            project.edit(name, BEFORE[name], text + gap + BEFORE[name])
        elif path.exists():
            project.append(name, ("\n\n" if name.endswith(".py") else "") + text)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    project.edit("conf/smoke/parameters/corpus.yml", "  sources:\n", "  sources:\n" + SOURCE)
    for reader, field in DOUBLED.items():
        beside = f"{reader}: {{does: read}}"
        tool = f"double_{field}: {{does: double, field: {field}}}"
        project.edit("engine/toolworld/domains.yml", beside, f"{beside}\n          {tool}")
