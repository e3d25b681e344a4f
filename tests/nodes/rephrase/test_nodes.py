from collections import Counter

import polars as pl
import pytest
from pydantic import ValidationError

from engine.artifacts.tables import polars_schema
from engine.errors import UserError
from nodes.rephrase.nodes import rephrase_documents
from nodes.rephrase.schema import REJECTED_REWRITES, REWRITES, Parameters
from tests.engine.llm.fake_server import fake_openai
from tests.nodes.rephrase.texts import BASE, CHILE, DOCSTRING, DRILL, PROBLEM
from tests.nodes.sharded import assert_shards_do_not_matter

TEXTS = [
    ("a1", "knowledge", "Chile: Geography", CHILE, "train"),
    ("a2", "web", "queue (documentation)", DOCSTRING, "train"),
    ("a3", "maths", "Divisors", PROBLEM, "train"),
    ("a4", "maths", "Sums", DRILL, "train"),
    ("a5", "knowledge", "Peru: Geography", CHILE.replace("Chile", "Peru"), "validation"),
    ("a6", "code", "x.py", "def f():\n    return 1", "train"),
]
ALL = {"web": 1.0, "knowledge": 1.0, "maths": 1.0}


def documents(texts=TEXTS):
    rows = [(*row, len(row[3].encode())) for row in texts]
    return pl.LazyFrame(rows, schema=["id", "domain", "title", "text", "split", "n_bytes"], orient="row")


def parameters(model=None, **changes):
    return {**BASE, "shares": ALL, **changes, "model": {**BASE["model"], "documents": 0, **(model or {})}}


def by_url(url, **changes):
    llm = {"provider": "openai", "base_url": url, "model": "m", "retries": 0}
    return parameters(
        {"documents": 2, "max_document_bytes": 5000, "min_prose": 0.0, "chunk_bytes": 300, "llm": llm, **changes},
        shares={},
    )


def test_the_template_engine_rewrites_training_documents_and_most_pass(tmp_path):
    accepted, rejected, metrics = rephrase_documents(documents(), parameters(), tmp_path)
    assert accepted.schema == polars_schema(REWRITES)
    assert rejected.schema == polars_schema(REJECTED_REWRITES)
    assert set(accepted["source_id"]) == {"a1", "a2", "a3", "a4"}
    assert set(accepted["generator"]) == {"template"}
    assert accepted.height + rejected.height == metrics["rewrites"] == 8
    assert metrics["accepted_share_template"] >= 0.75
    assert accepted["id"].is_unique().all()
    pairs = pl.concat([accepted, rejected.drop("reasons")]).group_by("source_id").agg(pl.struct("style", "perspective"))
    assert all(len({str(pair) for pair in row}) == 2 for row in pairs["style"])


def test_a_rerun_is_identical_and_does_not_depend_on_the_order(tmp_path):
    first = rephrase_documents(documents(), parameters(), tmp_path / "first")
    again = rephrase_documents(documents(TEXTS[::-1]), parameters(), tmp_path / "again")
    assert first[0].equals(again[0])
    assert first[1].equals(again[1])
    assert first[2] == again[2]


def test_a_model_gets_the_excerpt_and_what_it_wrote_before(tmp_path):
    with fake_openai(lambda body: (200, f"Reply {len(body['messages'][1]['content'])}.")) as fake:
        accepted, rejected, _ = rephrase_documents(documents(TEXTS[:1]), by_url(fake.url), tmp_path)
    assert accepted.is_empty()
    prompts = [body["messages"][1]["content"] for body in fake.bodies]
    assert len(prompts) == rejected["chunks"][0] >= 3
    assert all("756,102 sq km" in prompt for prompt in prompts)  # the excerpt stands in every prompt
    assert "Passage: Location" in prompts[0]
    assert "rewritten like this" not in prompts[0]
    replies = rejected["text"][0].split("\n\n")
    assert all(reply in prompts[-1] for reply in replies[:-1])
    assert [body["temperature"] for body in fake.bodies] == [0.0] * len(prompts)


def test_replies_pass_the_same_gate_and_keep_their_reasons(tmp_path):
    def reply(body):
        passage = body["messages"][1]["content"].split("Passage: ")[1]
        return 200, passage.replace("1541", "1547").replace("NAME", "Inca")

    text = "In 1541, the Spanish founded the town of Santiago, which lies beside the river Mapocho in the valley."
    other = "The NAME people ruled the valley for a hundred years, and they built roads and many storehouses in it."
    rows = [("b1", "web", "x", text, "train"), ("b2", "web", "y", other.replace("NAME", "Inca"), "train")]
    loose = {**BASE["gate"], "max_copied": 1.0}
    with fake_openai(reply) as fake:
        accepted, rejected, metrics = rephrase_documents(documents(rows), {**by_url(fake.url), "gate": loose}, tmp_path)
    assert accepted["source_id"].to_list() == ["b2"]
    assert rejected["source_id"].to_list() == ["b1"]
    assert rejected["reasons"][0].to_list() == ["piece 1: number_lost: 1541", "piece 1: number_invented: 1547"]
    assert set(accepted["generator"]) == {"openai"}
    assert metrics["accepted_share_openai"] == 0.5


def test_after_a_kill_no_call_is_repeated(tmp_path):
    calls = []

    def dies_after_two(body):
        calls.append(body)
        return (200, f"Reply {len(calls)}.") if len(calls) <= 2 else (400, {})

    with fake_openai(dies_after_two) as fake:
        with pytest.raises(UserError, match="HTTP 400"):
            rephrase_documents(documents(TEXTS[:1]), by_url(fake.url), tmp_path)
        fake.answer = lambda body: (200, "Reply after.")
        _, rejected, _ = rephrase_documents(documents(TEXTS[:1]), by_url(fake.url), tmp_path)
        sent = [body["messages"][1]["content"] for body in fake.bodies]
        assert len(sent) == rejected["chunks"][0] + 1  # the refused one went out twice
        rephrase_documents(documents(TEXTS[:1]), by_url(fake.url), tmp_path)
        assert len(fake.bodies) == len(sent)


def test_shards_do_not_matter(tmp_path):
    """Several documents and a language model, whose every call is made once in a workspace."""
    more = [(f"{row[0]}-{n}", *row[1:3], row[3].replace("756", f"75{n}"), row[4]) for n in range(4) for row in TEXTS]
    with fake_openai(lambda body: (200, body["messages"][1]["content"].split("Passage: ")[1].upper())) as fake:
        given = documents(more), {**by_url(fake.url), "shares": ALL}
        size = "nodes.rephrase.write.ORDERS_A_BLOCK", 5
        assert_shards_do_not_matter(rephrase_documents, given, tmp_path, "rewritten/*.parquet", size)
        calls = Counter(body["messages"][1]["content"] for body in fake.bodies)
    assert set(calls.values()) <= {4, 5}, "whole, by 3, by 7, and killed: where it died, one call may be lost"
    assert sorted(calls.values())[-2] == 4


def test_an_unreachable_model_names_the_parameter(tmp_path):
    with pytest.raises(UserError, match=r"rephrase\.model\.llm\.base_url: no language model answers"):
        rephrase_documents(documents(), by_url("http://127.0.0.1:9/v1"), tmp_path)


def test_the_real_embedded_model_is_judged_like_any_other(tmp_path):
    text = "The town of Santiago was founded in 1541. It lies beside a river."
    rows = [("c1", "web", "Santiago", text, "train")]
    settings = parameters({"documents": 1, "domains": ["web"], "max_tokens": 24}, shares={})
    accepted, rejected, metrics = rephrase_documents(documents(rows), settings, tmp_path)
    assert metrics["rewrites_local"] == 1
    (generator,) = pl.concat([accepted, rejected.drop("reasons")])["generator"]
    assert generator == "local"
    assert rejected.is_empty() or len(rejected["reasons"][0]) > 0


@pytest.mark.parametrize(
    "broken",
    [
        {"styles_by_domain": {}},
        {"styles_by_domain": {**BASE["styles_by_domain"], "web": ["sonnet"]}},
        {"shares": {"web": 1.5}},
        {"rewrites_per_document": 99},
        {"perspectives": {}},
        {"tone": "warm"},
        {"model": {**BASE["model"], "llm": {"provider": "oracle"}}},
    ],
)
def test_parameters_that_make_no_sense_are_refused(broken):
    with pytest.raises(ValidationError):
        Parameters.model_validate({**BASE, **broken})
