"""What is drawn and in which order parts come back, against plain Python over everything at once."""

import errno
import random
import sqlite3
from itertools import chain, groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.corpus import spool as spool_module
from nodes.corpus.document import RawDocument, draw_rank
from nodes.corpus.spool import Spool, _full_disc

TITLES = st.lists(st.text(min_size=1, max_size=4), unique=True, max_size=20)
SIZES = st.sampled_from(["x", "yy", "zzz", "x" * 30, "w" * 9, *(chr(97 + n) * (n + 1) for n in range(20))])


@pytest.fixture(scope="module")
def spool(tmp_path_factory):
    return Spool(tmp_path_factory.mktemp("corpus") / "spool")


def drawn(spool, documents, max_bytes, seed):
    with spool.writing() as writer:
        batches = list(spool.draw(writer, documents, max_bytes, seed))
    return sorted(chain.from_iterable(batches), key=lambda one: (one.title, one.text, one.group))


def lowest(documents, max_bytes, seed):
    """The draw by its definition: equal texts together, from the lowest hash up, as long as there is room."""
    ranked = sorted(documents, key=lambda one: draw_rank(one, seed))
    stay, total = [], 0
    for _, group in groupby(ranked, key=lambda one: draw_rank(one, seed)):
        alike = list(group)
        total += sum(len(one.text.encode()) for one in alike)
        if stay and total > max_bytes:
            break
        stay += alike
    return sorted(stay, key=lambda one: (one.title, one.text, one.group))


@given(
    st.lists(st.tuples(st.sampled_from("abc"), SIZES), max_size=60),
    st.integers(1, 200),
    st.integers(0, 9),
    st.randoms(use_true_random=False),
)
def test_a_draw_is_the_lowest_hashes_in_whatever_order_the_source_gives_them(spool, entries, max_bytes, seed, rng):
    documents = [RawDocument(title, text) for title, text in entries]
    want = lowest(documents, max_bytes, seed)
    assert drawn(spool, documents, max_bytes, seed) == want
    rng.shuffle(documents)
    assert drawn(spool, documents, max_bytes, seed) == want


@given(TITLES, st.integers(1, 200))
def test_a_draw_keeps_within_its_bytes_unless_one_document_is_longer(spool, titles, max_bytes):
    documents = drawn(spool, [RawDocument(title, title * 5) for title in titles], max_bytes, 0)
    assert sum(len(document.text.encode()) for document in documents) <= max_bytes or len(documents) == 1
    assert len({document.title for document in documents}) == len(documents)
    assert bool(documents) == bool(titles)


def test_of_a_long_source_no_more_is_kept_on_disk_than_is_wanted(tmp_path):
    spool = Spool(tmp_path / "spool")
    documents = (RawDocument(str(n), f"{n} " + "x" * 1000) for n in range(4000))
    assert sum(len(one.text) for one in drawn(spool, documents, 50_000, 0)) <= 50_000
    assert (spool.folder / "parts.sqlite").stat().st_size < 400_000


def test_parts_come_back_by_id_source_title_and_parent(tmp_path, monkeypatch):
    monkeypatch.setattr(spool_module, "BATCH_ROWS", 7)
    rng = random.Random(0)
    parts = [(*(f"{rng.randrange(4)}" for _ in range(4)), "text é", None) for _ in range(100)]
    spool = Spool(tmp_path / "spool")
    with spool.writing() as writer:
        spool.add(writer, parts[:60])
        spool.add(writer, parts[60:])
    batches = list(spool.parts())
    assert spool.rows == 100
    assert max(map(len, batches)) == 7
    assert [part[:4] for part in chain.from_iterable(batches)] == sorted(part[:4] for part in parts)


def test_what_a_killed_run_left_is_not_read(tmp_path):
    for _ in range(2):
        spool = Spool(tmp_path / "a b#%" / "spool")
        with spool.writing() as writer:
            spool.add(writer, [("0", "s", "t", "p", "x", None)])
        assert sum(map(len, spool.parts())) == 1


def test_a_full_disc_is_the_systems_error(tmp_path):
    spool = Spool(tmp_path / "spool")
    with pytest.raises(OSError, match="No space left") as error, spool.writing() as writer:  # noqa: PT012
        writer.execute("PRAGMA max_page_count=8")
        spool.add(writer, [("0", "s", "t", "p", "x" * 10**6, None)])
    assert error.value.errno == errno.ENOSPC
    with pytest.raises(sqlite3.OperationalError), _full_disc(tmp_path):
        sqlite3.connect(":memory:").execute("SELECT nonsense")
