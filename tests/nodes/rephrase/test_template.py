import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.rephrase.gate import judge
from nodes.rephrase.notes import METHOD_WORDS
from nodes.rephrase.pieces import Piece, join, pieces_of, units_of
from nodes.rephrase.prose import restructure, synonyms, vary_list
from nodes.rephrase.records import label_of
from nodes.rephrase.schema import Parameters
from nodes.rephrase.template import TemplateWriter
from nodes.rephrase.words import SYNONYMS, sentences
from tests.nodes.rephrase.texts import BASE, CHILE, DOCSTRING, DRILL, PROBLEM

P = Parameters.model_validate(BASE)


def piece(text, style, perspective="teacher", title="Chile: Geography", key="k", previous=()):
    (units,) = pieces_of(text, 10**6)
    return Piece(units, title, text, previous, P.styles[style], P.perspectives[perspective], key)


def test_structure_is_read_from_the_text_alone():
    assert [unit.kind for unit in units_of(CHILE)] == ["record"] * 10 + ["sentence"]
    assert {unit.kind for unit in units_of(PROBLEM)} == {"problem"}
    assert {unit.kind for unit in units_of(DRILL)} == {"sum"}
    kinds = [unit.kind for unit in units_of(DOCSTRING)]
    assert kinds.count("verbatim") == 3
    assert kinds.count("sentence") == 4


@given(st.text(alphabet="abc .\n:AB", max_size=300), st.integers(20, 100))
def test_pieces_lose_no_word_and_stay_short(text, chunk_bytes):
    pieces = pieces_of(text, chunk_bytes)
    longest = max((len(unit.text.encode()) for unit in units_of(text)), default=0)
    assert all(len(join(units).encode()) <= max(2 * chunk_bytes, longest + 2) for units in pieces)
    joined = " ".join(join(units) for units in pieces).split()
    assert joined == [word for unit in units_of(text) for word in unit.text.split()]


@pytest.mark.parametrize("style", [name for name in P.styles if name != "learning_note"])
@pytest.mark.parametrize("perspective", list(P.perspectives))
@pytest.mark.parametrize("key", ["a", "b", "c"])
@pytest.mark.parametrize(("text", "title"), [(CHILE, "Chile: Geography"), (DOCSTRING, "queue (documentation)")])
def test_rewrites_are_faithful_and_no_copies(style, perspective, key, text, title):
    one = piece(text, style, perspective, title, key)
    rewrite = TemplateWriter().rewrite(one)
    assert rewrite == TemplateWriter().rewrite(one)
    assert judge(one.text, rewrite, P.gate, title, one.style.longest) == []
    assert rewrite != text


@pytest.mark.parametrize("text", [PROBLEM, DRILL])
@pytest.mark.parametrize("key", ["a", "b", "c", "d"])
def test_learning_notes_are_faithful(text, key):
    one = piece(text, "learning_note", key=key, title="Sums")
    rewrite = TemplateWriter().rewrite(one)
    assert judge(one.text, rewrite, P.gate, "Sums", one.style.longest, METHOD_WORDS) == []
    assert "Answer:" not in rewrite


def test_styles_and_perspectives_word_the_same_facts_differently():
    rewrites = {
        TemplateWriter().rewrite(piece(CHILE, style, perspective, key=f"{style}:{perspective}"))
        for style in ("encyclopedia", "interview", "briefing", "lecture")
        for perspective in P.perspectives
    }
    assert len(rewrites) == 12


def test_the_opener_stands_once_in_a_long_document():
    first = TemplateWriter().rewrite(piece(CHILE, "lecture"))
    later = TemplateWriter().rewrite(piece(CHILE, "lecture", previous=(first,)))
    opener = first.split("\n")[0]
    assert "Chile" in opener
    assert not later.startswith(opener)


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("In 1541, the Spanish founded Santiago.", "The Spanish founded Santiago in 1541."),
        ("If the queue is empty, the call blocks.", "The call blocks if the queue is empty."),
        ("Return the number of items.", "This returns the number of items."),
        ("A buffer for lines of text.", "This is a buffer for lines of text."),
        ("Discovered by Rutherford in Manchester.", "It was discovered by Rutherford in Manchester."),
        ("It had a king, which lasted until 1810.", "It had a king; this lasted until 1810."),
    ],
)
def test_sentences_are_rearranged(sentence, expected):
    rewrites = {restructure(sentence, key) for key in "abcdefghij"}
    assert rewrites <= {sentence, expected}
    assert expected in rewrites


@pytest.mark.parametrize("word", sorted(SYNONYMS))
def test_a_synonym_keeps_the_gate_content(word):
    sentence = f"The old town {word} the wooden bridge near 1541 houses."
    rewrites = synonyms(sentence, "k", thorough=1.0)
    assert rewrites != sentence
    assert not [reason for reason in judge(sentence, rewrites, P.gate) if not reason.startswith("content_invented")]


def test_lists_change_their_order_only_where_it_is_safe():
    rewrites = vary_list("copper, timber, iron ore, nitrates", "a")
    assert sorted(rewrites.replace(" and ", ", ").split(", ")) == ["copper", "iron ore", "nitrates", "timber"]
    for text in ("salt, 3% iron, coal", "Serb, other, none", "a, b and c, d", "one, two"):
        assert vary_list(text, "a") == text


@pytest.mark.parametrize(
    ("field", "label"),
    [
        ("Area, land", "land area"),
        ("Area (note)", "note on the area"),
        ("Capital, etymology", "etymology of the capital"),
        ("Real GDP per capita 2024", "real GDP per capita 2024"),
        ("CAS number", "CAS number"),
        ("Ports, very small", "very small ports"),
        ("Merchant marine, by type", "merchant marine by type"),
        ("Petroleum, refined petroleum consumption", "refined petroleum consumption"),
    ],
)
def test_labels_read_as_noun_phrases(field, label):
    assert label_of(field) == label


def test_sentences_do_not_end_at_abbreviations():
    text = 'Dr. Smith met Gen. Pinochet, e.g. in Santiago. It rained. "Why?" Nobody knows.'
    assert sentences(text) == [
        "Dr. Smith met Gen. Pinochet, e.g. in Santiago.",
        "It rained.",
        '"Why?"',
        "Nobody knows.",
    ]
