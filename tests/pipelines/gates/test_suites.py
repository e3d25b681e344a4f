"""Every suite of gates.yml accepts a sound table and refuses each broken one, naming what is wrong."""

import json

import polars as pl
import pytest
import yaml

from engine.errors import UserError
from pipelines import gates, graph
from pipelines.gates import gate, suites
from pipelines.gates.profile import Statistic

N = 40
LONG = "The quick brown fox jumps over the lazy dog. " * 8
SPLITS = ["train"] * 30 + ["validation"] * 5 + ["test"] * 5
DOMAINS = ["web", "code", "maths", "knowledge"] * 10
IDS = [f"{i:016x}" for i in range(N)]
TEXTS = [f"{LONG}{i}" for i in range(N)]
CHATS = [json.dumps([{"role": "user", "content": f"Book flight {i}, please."}, {"role": "assistant", "content": None}])
         for i in range(N)]  # fmt: skip
GOOD = {
    "documents": {
        "id": IDS, "domain": DOMAINS, "source": ["stdlib"] * N, "title": ["t"] * N, "text": TEXTS,
        "split": SPLITS, "license": ["PSF-2.0"] * N, "n_bytes": [len(LONG)] * N,
    },
    "rewrites": {
        "id": IDS, "source_id": IDS, "domain": DOMAINS, "style": ["notes"] * N, "perspective": ["teacher"] * N,
        "chunks": [1] * N, "text": TEXTS, "generator": ["template"] * N, "n_bytes": [len(LONG)] * N,
    },
    "tools": {
        "name": IDS, "domain": ["travel"] * N, "origin": ["spec"] * N,
        "description": [f"books flight {i}" for i in range(N)],
        "parameters": ['{"type": "object"}'] * N, "returns": ["a booking"] * N, "stateful": [True] * N,
    },
    "agents": {"id": IDS, "domain": ["travel"] * N, "system_prompt": TEXTS, "tools": [["book_flight"]] * N},
    "tasks": {
        "id": IDS, "agent_id": IDS, "domain": ["travel"] * N, "instruction": [f"book flight {i}" for i in range(N)],
        "rubric": ['[{"check": "booked"}]'] * N, "difficulty": ["simple"] * N, "split": SPLITS,
    },
    "trajectories": {
        "id": IDS, "task_id": IDS, "agent_id": IDS, "domain": ["travel"] * N, "split": SPLITS, "messages": CHATS,
        "tools": ["[]"] * N, "score": [0.95] * N, "verdict": ["{}"] * N, "turns": [3] * N,
        "generator": ["template"] * N,
    },
    "sft_examples": {
        "id": IDS, "kind": ["chat", "trajectory", "demonstration", "chat"] * 10, "messages": CHATS,
        "tools": ["[]"] * N, "split": ["train"] * 30 + ["validation"] * 10,
    },
}  # fmt: skip
NONE = pl.lit(None)
BAD = [
    ("documents", {"id": pl.lit("same")}, "id.duplicate_share"),
    ("documents", {"text": pl.lit(LONG + "\ufffd" * 9)}, "text.replacement_share"),
    ("documents", {"text": pl.lit("scrap")}, "text.chars_p50"),
    ("documents", {"domain": pl.lit("gossip")}, "domain.other"),
    ("documents", {"split": pl.lit("train")}, "split.validation"),
    ("documents", {"license": pl.lit("")}, "license.blank_share"),
    ("rewrites", {"source_id": pl.lit("")}, "source_id.blank_share"),
    ("rewrites", {"text": pl.lit("no")}, "text.chars_min"),
    ("rewrites", {"generator": pl.lit("oracle")}, "generator.other"),
    ("rewrites", {"chunks": pl.lit(0, dtype=pl.Int64)}, "chunks.min"),
    ("tools", {"name": pl.lit("same")}, "name.duplicate_share"),
    ("tools", {"description": pl.lit("x")}, "description.chars_min"),
    ("agents", {"tools": pl.lit([], dtype=pl.List(pl.String))}, "tools.items_min"),
    ("agents", {"system_prompt": pl.lit("you")}, "system_prompt.chars_min"),
    ("tasks", {"rubric": pl.lit("")}, "rubric.chars_min"),
    ("tasks", {"split": pl.lit("test")}, "split.train"),
    ("trajectories", {"score": pl.lit(1.5)}, "score.max"),
    ("trajectories", {"score": pl.lit(0.2)}, "score.mean"),
    (
        "trajectories",
        {"score": pl.when(pl.col("id") == IDS[0]).then(float("nan")).otherwise("score")},
        "score.nan_share",
    ),
    ("trajectories", {"messages": pl.lit("[]")}, "messages.chars_p05"),
    ("sft_examples", {"kind": pl.lit("poem")}, "kind.other"),
    ("sft_examples", {"split": pl.lit("test")}, "split.other"),
]
OF_TEXTS = {
    "documents": "text", "rewrites": "text", "tools": "description", "agents": "system_prompt", "tasks": "instruction",
    "trajectories": "messages", "sft_examples": "messages",
}  # fmt: skip
MAY_SHARE = {"agents"}
"""Tables in which many rows may have one text, as agents with other tools have: not nearly all."""


def table(name: str) -> pl.LazyFrame:
    return pl.LazyFrame(GOOD[name])


def judged(name: str, frame: pl.LazyFrame) -> gates.GateReport:
    suite = suites.load_suites()[name]
    return gates.judge(name, profiled(frame, suite), name)


def profiled(frame: pl.LazyFrame, suite: suites.Suite) -> dict[str, Statistic]:
    return gates.profile_table(frame, gate._schema(frame), suite.key, suite.shares, suite.dialogues)


@pytest.fixture
def reports(tmp_path):
    """Return data/<profile>/.runs/<stage>/gates."""
    return tmp_path / "smoke" / ".runs" / "stage" / "gates"


def test_every_gated_table_of_the_catalog_has_a_suite_and_a_declared_schema():
    gated = {name: entry for name, entry in graph.catalog_entries(None).items() if entry.get("gate")}
    assert set(gates.gated_tables()) == {entry["gate"] for entry in gated.values()} == set(GOOD)
    for name in gated:
        schema = graph.dataset(None, name).schema  # type: ignore[attr-defined]
        assert gate._schema(table(name)) == schema, f"{name}: this test's good table is not of the declared schema"


@pytest.mark.parametrize("name", GOOD)
def test_a_sound_table_passes(name, reports):
    gates.check(name, table(name), reports)
    report = json.loads((reports / f"{name}.json").read_text())
    assert report["passed"]
    assert report["failures"] == []
    assert report["profile"]["row_count"] == N
    assert report["result"]["statistics"]["evaluated_expectations"] == len(suites.load_suites()[name].expectations)


@pytest.mark.parametrize(("name", "change", "statistic"), BAD)
def test_a_broken_table_is_refused_by_name(name, change, statistic):
    verdict = judged(name, table(name).with_columns(**change))
    assert not verdict.passed
    assert any(failure.startswith(f"{statistic} is ") for failure in verdict.failures)


BLANKS = [
    "",
    " " * 60,
    "\n\t\u00a0\u3000" * 20,
    "\u200b\u2060\ufeff\u00ad" * 20,
    "\u3164\u2800\ufe0f" * 20,
    "\x00\x1f" * 40,
]


@pytest.mark.parametrize(("name", "column"), OF_TEXTS.items())
def test_texts_that_are_missing_blank_or_all_alike_are_refused(name, column):
    first = pl.int_range(pl.len()) == 0
    most = pl.int_range(pl.len()) < N * 0.6
    for change, statistic in (
        (pl.lit(None, dtype=pl.String), "blank_share"),
        (pl.when(first).then(NONE).otherwise(column), "blank_share"),
        *((pl.lit(blank), "blank_share") for blank in BLANKS),
        *((pl.when(first).then(pl.lit(blank)).otherwise(column), "blank_share") for blank in BLANKS),
        (pl.col(column).first(), "duplicate_share"),
        *[(pl.when(most).then(pl.col(column).first()).otherwise(column), "duplicate_share")] * (name not in MAY_SHARE),
    ):
        suite = suites.load_suites()[name]
        frame = table(name).with_columns(change.alias(column))
        statistics = profiled(frame, suite)
        rules = [rule for rule in suite.expectations if rule["column"] == f"{column}.{statistic}"]
        assert rules, f"{name} has no limit on {column}.{statistic}"
        assert float(statistics[f"{column}.{statistic}"]) > rules[0]["max_value"]


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("blank", [None, "", " \u200b"])
def test_one_row_without_its_key_is_too_many(name, blank):
    suite = suites.load_suites()[name]
    key = pl.when(pl.int_range(pl.len()) == 0).then(pl.lit(blank)).otherwise(suite.key)
    statistics = profiled(table(name).with_columns(key.alias(suite.key)), suite)
    (rule,) = [rule for rule in suite.expectations if rule["column"] == f"{suite.key}.blank_share"]
    assert float(statistics[rule["column"]]) == 1 / N > rule["max_value"]


@pytest.mark.parametrize("name", ["trajectories", "sft_examples"])
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("blank", BLANKS)
def test_a_conversation_in_which_nobody_says_anything_is_refused(name, blank, ascii_only):
    roles = ("system", "user", "assistant")
    silent = json.dumps([{"role": role, "content": blank} for role in roles], ensure_ascii=ascii_only)
    statistics = gates.profile_table(
        table(name).with_columns(messages=pl.lit(silent)), {"messages": "str"}, "id", {}, ["messages"]
    )
    assert statistics["messages.silent_share"] == 1
    spoken = json.dumps([{"role": role, "content": f"{blank}\u2026"} for role in roles], ensure_ascii=ascii_only)
    statistics = gates.profile_table(
        table(name).with_columns(messages=pl.lit(spoken)), {"messages": "str"}, "id", {}, ["messages"]
    )
    assert statistics["messages.silent_share"] == 0


def test_the_gate_names_the_text_that_is_alike():
    verdict = judged("rewrites", table("rewrites").with_columns(text=pl.lit(LONG)))
    assert verdict.failures == [
        "text.duplicate_share is 0.975, expected at most 0.5: more, and most texts repeat others"
    ]


@pytest.mark.parametrize("name", GOOD)
def test_an_empty_table_is_refused(name):
    verdict = judged(name, table(name).head(0))
    assert not verdict.passed
    assert verdict.failures[0].startswith("row_count is 0")


def test_a_refusal_names_the_table_its_failures_its_report_and_where_it_went(reports):
    with pytest.raises(gates.GateRefused) as refused:
        gates.check("tools", table("tools").with_columns(name=pl.lit("same")), reports)
    assert str(refused.value).startswith(
        "tools was refused by its gate: name.duplicate_share is 0.975, expected at most 0"
    )
    assert str(reports.parents[2] / ".rejected" / "tools") in str(refused.value)
    assert not json.loads((reports / "tools.json").read_text())["passed"]


def test_a_verdict_is_the_same_bytes_again(reports):
    gates.check("agents", table("agents"), reports)
    first = (reports / "agents.json").read_bytes()
    gates.check("agents", table("agents"), reports)
    assert (reports / "agents.json").read_bytes() == first


def test_data_docs_stand_alone_and_name_each_table(reports):
    gates.check("agents", table("agents"), reports)
    with pytest.raises(gates.GateRefused):
        gates.check("tasks", table("tasks").head(0), reports)
    docs = reports.parents[1] / "data_docs"
    pages = {path.name: path.read_text() for path in docs.glob("*.html")}
    assert set(pages) == {"agents.html", "tasks.html", "index.html"}
    assert not any("http://" in page or "https://" in page for page in pages.values())
    assert "passed" in pages["index.html"]
    assert "refused" in pages["index.html"]
    assert "system_prompt.chars_min" in pages["agents.html"]


def test_a_table_without_a_suite_is_not_judged(reports):
    gates.check("rejected_documents", table("documents").head(0), reports)
    assert not reports.exists()


def test_a_statistic_that_does_not_exist_is_an_error_of_the_suite():
    with pytest.raises(UserError, match=r"suite agents names the statistic row_count, which agents does not have"):
        gates.judge("agents", {"rows": 1}, "agents")
    with pytest.raises(UserError, match="has no suite nothing for agents"):
        gates.judge("agents", {"rows": 1}, "nothing")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "is not valid YAML"),
        ("a: {key: id}", "suite a: the field expectations is missing; add it"),
        ("a: {kex: id, expectations: [{type: t, column: c}]}", "suite a: the field kex is unknown; did you mean key?"),
        ("a: {expectations: []}", r"the field expectations: list should have at least 1 item"),
        (
            "a: {expectations: [{type: t, column: c, max_value: .nan}]}",
            "expectations.0.max_value is nan: give a finite",
        ),
        ("a: {texts: text, expectations: [{type: t, column: c}]}", "the field texts is 'text', not a list"),
        ("a: {expectations: [{type: t}]}", "the field expectations.0.column is missing; add it"),
    ],
)
def test_a_malformed_gates_file_is_refused_in_one_sentence(tmp_path, content, message):
    path = tmp_path / "gates.yml"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as refused:
        suites.load_suites(path)
    assert str(path) in str(refused.value)


def test_an_unknown_expectation_type_is_an_error_of_the_suite(monkeypatch):
    rule = {"type": "expect_the_moon", "column": "row_count"}
    monkeypatch.setattr(gate, "load_suites", lambda: {"agents": suites.Suite("agents", "id", {}, [rule])})
    with pytest.raises(UserError, match=r"gates.yml: suite agents: .*expect_the_moon"):
        gates.judge("agents", {"row_count": 1}, "agents")


def test_gates_file_is_yaml_that_kedro_reads_too():
    assert set(yaml.safe_load(suites.GATES.read_text())) >= set(graph.config(None, "gates"))
