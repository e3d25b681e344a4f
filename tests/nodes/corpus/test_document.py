import random

from hypothesis import given
from hypothesis import strategies as st

from nodes.corpus.document import RawDocument, document_id, draw, split_long, unit_hash

TITLES = st.lists(st.text(min_size=1, max_size=4), unique=True, max_size=20)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["x", "yy", "zzz", "x" * 30, "w" * 9])), max_size=20),
    st.integers(1, 200),
    st.integers(0, 9),
    st.randoms(use_true_random=False),
)
def test_a_draw_does_not_hang_on_the_order_of_the_source(entries, max_bytes, seed, rng: random.Random):
    documents = [RawDocument(title, text) for title, text in entries]
    drawn = draw(documents, max_bytes, seed)
    rng.shuffle(documents)
    assert draw(documents, max_bytes, seed) == drawn


@given(TITLES, st.integers(1, 200))
def test_a_draw_keeps_within_its_bytes_unless_one_document_is_longer(titles, max_bytes):
    drawn = draw([RawDocument(title, title * 5) for title in titles], max_bytes, 0)
    assert sum(len(document.text.encode()) for document in drawn) <= max_bytes or len(drawn) == 1
    assert len({document.title for document in drawn}) == len(drawn)
    assert bool(drawn) == bool(titles)


@given(st.text(alphabet="ab .\n", max_size=400), st.integers(8, 60))
def test_parts_are_short_and_lose_only_white_space(text, max_bytes):
    parts = list(split_long(text, max_bytes, 1000))
    assert all(len(part.encode()) <= max_bytes for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())


@given(st.text(max_size=200), st.integers(4, 40))
def test_parts_never_cut_a_character(text, max_bytes):
    for part in split_long(text, max_bytes, 1000):
        part.encode()
        assert len(part.encode()) <= max_bytes


def test_parts_end_before_a_definition_and_are_capped():
    text = "\n\n".join(f"def f{n}():\n    return {n}" for n in range(20))
    parts = list(split_long(text, 100, 3))
    assert len(parts) == 3
    assert all(part.startswith("def ") for part in parts)


def test_identities_do_not_drift():
    assert document_id("Kimi K2") == "cb3c7ed544a99384"
    assert 0 <= unit_hash(1, "a") < 1
    assert unit_hash(1, "a") != unit_hash(1, "b")
