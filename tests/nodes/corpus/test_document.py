from hypothesis import given
from hypothesis import strategies as st

from nodes.corpus.document import document_id, split_long, unit_hash


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
