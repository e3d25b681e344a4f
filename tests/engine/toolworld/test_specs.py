"""Tool specs: counts, schemas, and the refusal of a malformed domain description."""

import jsonschema
import pytest

from engine.errors import UserError
from engine.toolworld import load_tools
from engine.toolworld.specs import application_of, choose_domains, load_domains, operations, parse_domains

GOOD = """
pools: {people: [Ann, Ben, Cid]}
domains:
  zoo:
    category: animals
    role: keeper
    applications:
      cages:
        entity: cage
        entities: cages
        key: cage
        keys: [c1, c2, c3]
        says: "cage {key}"
        fields: {food: {low: 1, high: 5}, keeper: {pool: people}}
        tools: {get_cage: {does: read}, feed_cage: {does: raise, field: food, verb: feed}}
"""


def test_at_least_40_tools_over_8_domains():
    tools = load_tools()
    assert len(tools) >= 40
    assert len({tool.domain for tool in tools.values()}) == 8
    assert {tool.form.does for tool in tools.values()} == set(operations()) - {
        "claim_any",
        "set_if",
        "cannot",
        "question",
    }


@pytest.mark.parametrize("tool", load_tools().values(), ids=lambda tool: tool.name)
def test_every_tool_is_a_valid_short_openai_object(tool):
    function = tool.openai()["function"]
    jsonschema.Draft202012Validator.check_schema(function["parameters"])
    assert set(function["parameters"]["required"]) == set(function["parameters"]["properties"])
    assert "{" not in function["description"]
    assert tool.origin.startswith("synthetic:")
    assert len(str(tool.openai())) < 420  # the context of a small model has to hold three of them and the dialogue
    short = tool.openai("compact")["function"]
    assert short == {
        "name": tool.name,
        "parameters": {"type": "object", "properties": dict(tool.parameters)["properties"]},
    }
    assert application_of(tool).entity


def test_record_names_are_single_words_and_no_two_applications_of_a_domain_share_a_tool():
    for domain in load_domains().values():
        for app in domain.applications.values():
            assert all(" " not in key for key in app.keys)
            assert len(set(app.keys)) == len(app.keys) >= 6


def test_a_domain_is_data():
    assert parse_domains(GOOD)["zoo"].applications["cages"].fields["keeper"].values == ("Ann", "Ben", "Cid")


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("does: read", "does: dance", "does"),
        ("field: food, verb", "field: weight, verb", "weight"),
        ("does: raise, field: food, ", "does: raise, ", "needs a field"),
        ("role: keeper", "job: keeper", "role"),
        ("pools:", "ponds:", "pools"),
        ("[c1, c2, c3]", "[c1, c2", "zoo.yml, line .* is not valid YAML"),
        ("keys: [c1, c2, c3]", "keys: nobody", "nobody"),
    ],
)
def test_a_malformed_description_is_one_sentence(old, new, names):
    with pytest.raises(UserError, match=names):
        parse_domains(GOOD.replace(old, new), "zoo.yml")


def test_an_unknown_domain_is_refused_by_name():
    with pytest.raises(UserError, match=r"tooluse\.yml: domains: 'moon' is not a domain; choose among bank"):
        choose_domains(["bank", "moon"])
