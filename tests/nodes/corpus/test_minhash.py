import numpy as np
import pytest
from datasketch import MinHash
from hypothesis import given
from hypothesis import strategies as st

from nodes.corpus.minhash import SignatureFile, Words, clusters, shingles, signatures, similar_pairs

WORDS = [f"w{n}" for n in range(400)]


def document(rng, n=300):
    return [WORDS[i] for i in rng.integers(0, len(WORDS), n)]


def jaccard(a, b, n=3):
    runs = [{tuple(words[i : i + n]) for i in range(len(words) - n + 1)} for words in (a, b)]
    return len(runs[0] & runs[1]) / len(runs[0] | runs[1])


@pytest.mark.parametrize("changed", [0, 5, 20, 60, 300])
def test_estimates_agree_with_the_true_similarity_and_with_datasketch(changed):
    rng = np.random.default_rng(changed)
    first = document(rng)
    second = list(first)
    for at in rng.permutation(len(first))[:changed]:
        second[at] = WORDS[rng.integers(0, len(WORDS))]
    sets = shingles([" ".join(first), " ".join(second)], 3)
    signed = signatures(sets, 256, seed=1)
    estimate = float(np.mean(signed[0] == signed[1]))
    true = jaccard(first, second)
    spread = 4 * (max(true * (1 - true), 0.01) / 256) ** 0.5  # four standard errors
    assert abs(estimate - true) <= spread
    theirs = [MinHash(num_perm=256, seed=1) for _ in sets]
    for mine, their in zip(sets, theirs):
        their.update_batch([int(value).to_bytes(8, "big") for value in mine])
    assert abs(estimate - theirs[0].jaccard(theirs[1])) <= 2 * spread


def test_shingles_are_runs_of_words_whatever_case_and_spaces():
    (first, second, short) = shingles(["The  quick\nbrown Fox", "the quick brown fox", "one"], 3)
    assert np.array_equal(first, second)
    assert len(first) == 2
    assert len(short) == 1


def signed_in(folder, values, bands, rows):
    """The signatures in files, as if they had come in three batches."""
    signatures_on_disk = SignatureFile(folder, bands, rows)
    for part in np.array_split(values, 3):
        signatures_on_disk.append(part)
    return signatures_on_disk


def test_alike_documents_are_found_and_others_are_not(tmp_path):
    rng = np.random.default_rng(0)
    texts = [" ".join(document(rng)) for _ in range(40)]
    texts += [texts[3] + " and a tail", texts[7]]
    values = signatures(shingles(texts, 5), 112, 0)
    pairs = similar_pairs(signed_in(tmp_path, values, 16, 7), 0.5)
    assert list(zip(pairs.first, pairs.second)) == [(3, 40), (7, 41)]
    assert list(pairs.similarity) == [np.mean(values[3] == values[40]), 1]


@given(st.integers(0, 9), st.integers(0, 30), st.integers(2, 4))
def test_pairs_are_those_of_a_plain_search(tmp_path_factory, seed, n, values):
    """In each band a document is compared with the first that shares its rows, and with the one before it."""
    bands, rows = 3, 2
    signed = np.random.default_rng(seed).integers(0, values, (n, bands * rows)).astype(np.uint32)
    want = set()
    for band in range(bands):
        alike: dict[bytes, list[int]] = {}
        for at in range(n):
            others = alike.setdefault(signed[at, band * rows : (band + 1) * rows].tobytes(), [])
            want |= {(other, at) for other in {*others[:1], *others[-1:]}}
            others.append(at)
    estimates = {pair: float(np.mean(signed[pair[0]] == signed[pair[1]])) for pair in want}
    pairs = similar_pairs(signed_in(tmp_path_factory.mktemp("signatures"), signed, bands, rows), 0.5)
    assert list(zip(*(column.tolist() for column in pairs))) == sorted(
        (i, j, estimate) for (i, j), estimate in estimates.items() if estimate >= 0.5
    )


def test_words_that_are_remembered_from_batch_to_batch_change_no_hash(monkeypatch):
    monkeypatch.setattr("nodes.corpus.minhash._KNOWN_WORDS", 20)
    texts = [" ".join(document(np.random.default_rng(n))) for n in range(5)]
    known = Words()
    for text, want in zip(texts, shingles(texts, 5)):
        (hashes,) = shingles([text], 5, known)
        assert np.array_equal(hashes, want)
    assert len(known) <= 20


def test_blocks_do_not_change_signatures(monkeypatch):
    rng = np.random.default_rng(0)
    sets = shingles([" ".join(document(rng, n)) for n in (5, 300, 40, 7)], 3)
    whole = signatures(sets, 32, 0)
    monkeypatch.setattr("nodes.corpus.minhash._BLOCK", 50)
    assert np.array_equal(signatures(sets, 32, 0), whole)


@given(st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.tuples(*[st.integers(0, n - 1)] * 2)))))
def test_clusters_are_the_connected_components(graph):
    n, pairs = graph
    reach = {i: {i} for i in range(n)}
    for _ in range(n):
        for i, j in pairs:
            reach[i] |= reach[j]
            reach[j] |= reach[i]
        for i in range(n):
            reach[i] = set().union(*(reach[k] for k in reach[i]))
    assert clusters(n, pairs).tolist() == [min(reach[i]) for i in range(n)]
