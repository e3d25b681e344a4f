"""bits_per_byte, lengths and quiz against models whose likelihoods are known."""

from math import log, log2
from types import SimpleNamespace

import polars as pl
import pytest
import torch
from torch import nn

from engine.errors import UserError
from nodes.evaluate.suites import bits_per_byte, lengths, quiz
from nodes.evaluate.suites.likelihood import continuation_logprobs, window_nats


class Rigged(nn.Module):
    """A model whose `hidden` gives the logits themselves: all equal, but for the next token of known sequences."""

    device = torch.device("cpu")

    def __init__(self, vocab_size, known=(), weight=0.0):
        super().__init__()
        self.vocab_size, self.weight = vocab_size, weight
        self.next = {tuple(s[: i + 1]): s[i + 1] for s in known for i in range(len(s) - 1)}
        self.config = SimpleNamespace(rope_scaling=None, max_position_embeddings=32)

    def hidden(self, ids_BT, valid_BT=None):
        logits = torch.zeros(*ids_BT.shape, self.vocab_size)
        for b, row in enumerate(ids_BT.tolist()):
            for t in range(len(row)):
                token = self.next.get(tuple(row[: t + 1]))
                if token is not None:
                    logits[b, t, token] = self.weight
        return logits

    def lm_head(self, x):
        return x

    def forward(self, ids_BT):
        return self.hidden(ids_BT)


def test_uniform_model_needs_log2_of_the_vocabulary_for_each_token(tok, data, p):
    result = bits_per_byte.run(Rigged(tok.vocab_size), tok, data, p)
    windows = [data.shards.split("test").eval_windows(24, [d], ["natural"], 6) for d in ("knowledge", "maths")]
    tokens, size = sum(24 * len(w.tokens) for w in windows), sum(int(w.n_bytes.sum()) for w in windows)
    assert result.row("bits_per_byte/all").value == pytest.approx(log2(tok.vocab_size) * tokens / size, rel=1e-5)
    assert result.row("loss/all").value == pytest.approx(log(tok.vocab_size), rel=1e-5)
    assert [row.metric for row in result.rows] == [
        "bits_per_byte/all", "bits_per_byte/knowledge", "bits_per_byte/maths", "loss/all",
    ]  # fmt: skip


def test_pooled_bits_are_the_domains_weighted_by_bytes(tok, data, p, tiny):
    with torch.no_grad():
        result = bits_per_byte.run(tiny, tok, data, p)
    parts = [result.outcomes[f"bits_per_byte/{d}"] for d in ("knowledge", "maths")]
    bits, size = sum(sum(part[0]) for part in parts), sum(sum(part[1]) for part in parts)
    row = result.row("bits_per_byte/all")
    assert row.value == pytest.approx(bits / size)
    assert row.low <= row.value <= row.high


def test_items_are_documents_whatever_their_windows(tok, data, p, tiny):
    """A document's windows enter the interval as one item, and every target counts once."""
    stream = data.shards.split("test")
    with torch.no_grad():
        result = bits_per_byte.run(tiny, tok, data, p)
    for domain in ("knowledge", "maths"):
        windows = stream.eval_windows(24, [domain], ["natural"], 6)
        bits, size = result.outcomes[f"bits_per_byte/{domain}"]
        documents = len({*stream.owners(windows).documents.ravel().tolist()})
        assert result.row(f"bits_per_byte/{domain}").n == len(bits) == len(size) == documents
        assert sum(size) == windows.n_bytes.sum()
        with torch.no_grad():
            nats = float(window_nats(tiny, torch.from_numpy(windows.tokens), 6).sum())
        assert sum(bits) == pytest.approx(nats / log(2), rel=1e-5)
    assert sum(result.outcomes["loss/all"][1]) == 24 * sum(
        len(stream.eval_windows(24, [domain], ["natural"], 6).tokens) for domain in ("knowledge", "maths")
    )
    long = lengths.run(Rigged(tok.vocab_size), tok, data, p)
    windows = stream.eval_windows(p.lengths.length, None, ["natural"], p.lengths.windows)
    quarter = stream.owners(windows).documents[:, -(p.lengths.length // 4) :]
    assert long.row("lengths/last_quarter").n == len({*quarter.ravel().tolist()})


def test_questions_about_one_subject_are_one_item():
    def question(subject):
        return quiz.Question("Field", subject, (" a", " b"), 0)

    answered = [(question("x"), 1.0), (question("y"), 0.0), (question("x"), 1.0), (question("x"), 0.0)]
    assert quiz.by_subject(answered) == [[2.0, 0.0], [3.0, 1.0]]


def test_window_nats_do_not_depend_on_the_batch(tok, data, tiny):
    tokens = torch.from_numpy(data.shards.split("test").eval_windows(24, None, ["natural"], 7).tokens)
    one, many = window_nats(tiny, tokens, 1), window_nats(tiny, tokens, 5)
    torch.testing.assert_close(one, many, rtol=1e-4, atol=1e-4)
    logprobs = tiny(tokens[:1, :-1]).log_softmax(-1).gather(-1, tokens[:1, 1:, None])[..., 0]
    torch.testing.assert_close(one[:1], -logprobs, rtol=1e-4, atol=1e-4)


def test_continuations_come_back_in_their_own_order(tiny):
    rows = [([5, 6, 7], [8, 9, 10, 11]), ([5], [6]), ([3, 4, 5, 6, 7], [1]), ([9, 8], [7, 6])]
    together = continuation_logprobs(tiny, rows, 4)
    apart = [continuation_logprobs(tiny, [row], 1)[0] for row in rows]
    assert together == pytest.approx(apart, rel=1e-4)
    ids = torch.tensor([[*rows[0][0], *rows[0][1]]])
    expected = tiny(ids[:, :-1]).log_softmax(-1)[0, 2:].gather(-1, ids[0, 3:, None]).sum()
    assert together[0] == pytest.approx(expected.item(), rel=1e-4)


def test_length_rows_and_curve_of_a_uniform_model_are_flat(tok, data, p):
    result = lengths.run(Rigged(tok.vocab_size), tok, data, p)
    assert [row.metric for row in result.rows] == ["lengths/last_quarter", "lengths/first_quarter"]
    assert all(row.value == pytest.approx(log(tok.vocab_size), rel=1e-5) for row in result.rows)
    curve = result.details["curve"]
    assert curve["positions"] == [4.0, 12.0, 20.0, 28.0, 36.0, 44.0, 52.0, 60.0]
    assert curve["nats"] == pytest.approx([log(tok.vocab_size)] * 8, rel=1e-5)
    assert curve["trained_length"] == 32


def test_a_model_that_breaks_down_late_shows_in_the_last_quarter(tok, data, p):
    class Late(Rigged):
        def forward(self, ids_BT):
            logits = torch.zeros(*ids_BT.shape, self.vocab_size)
            logits[:, 48:, 0] = 50.0
            return logits

    result = lengths.run(Late(tok.vocab_size), tok, data, p)
    first, last = result.row("lengths/first_quarter"), result.row("lengths/last_quarter")
    assert last.value > first.value + 10


def _known(tok, questions):
    return [[tok.eos_id, *tok.encode(f"{q.subject}\n\n{q.field}:"), *tok.encode(q.answers[q.right])] for q in questions]


def test_quiz_of_a_model_that_knows_the_answers_is_1_and_of_one_that_avoids_them_0(tok, data, p):
    questions = quiz.questions(data.trained_documents(), p.quiz, p.seed)
    knows, avoids = (Rigged(tok.vocab_size, _known(tok, questions), weight) for weight in (30.0, -30.0))
    assert quiz.run(knows, tok, data, p).row("quiz/all").value == 1.0
    assert quiz.run(avoids, tok, data, p).row("quiz/all").value == 0.0


def test_common_or_long_answers_do_not_pay(tok, data, p):
    """A model that loves one wrong answer whatever the subject gains nothing by it."""
    questions = quiz.questions(data.trained_documents(), p.quiz, p.seed)
    loved = questions[0].answers[(questions[0].right + 1) % 4]
    known = _known(tok, questions)
    for question in questions:
        for context in (f"{question.subject}\n\n{question.field}:", f"{question.field}:"):
            known.append([tok.eos_id, *tok.encode(context), *tok.encode(loved)])
    # Where an answer shares its first token with the loved one the table holds only one of them; none does here.
    model = Rigged(tok.vocab_size, known[len(questions) :], 8.0)
    knows = Rigged(tok.vocab_size, known[: len(questions)], 4.0)
    model.hidden = lambda ids, valid_BT=None: Rigged.hidden(model, ids) + knows.hidden(ids)
    assert quiz.run(model, tok, data, p).row("quiz/all").value == 1.0


def test_questions_come_from_training_facts_with_a_subject(data, p):
    questions = quiz.questions(data.trained_documents(), p.quiz, p.seed)
    assert len(questions) == 5
    assert {q.field for q in questions} == {"Capital, name"}  # "Map references" has one value only
    for question in questions:
        assert question.subject.endswith(" - Government")
        assert question.field == "Capital, name"
        assert len(set(question.answers)) == 4
        assert not {" Nowhere", " Olympus", " Code"} & set(question.answers)
    assert questions == quiz.questions(data.trained_documents(), p.quiz, p.seed)
    assert questions != quiz.questions(data.trained_documents(), p.quiz, p.seed + 1)


def test_right_places_are_spread(data, p):
    places = [q.right for seed in range(30) for q in quiz.questions(data.trained_documents(), p.quiz, seed)]
    assert all(20 <= places.count(place) <= 60 for place in range(4))


def test_corpus_without_such_facts_is_refused_by_field(p):
    empty = pl.LazyFrame({"id": ["x"], "text": ["a\n\nb"], "domain": ["knowledge"], "split": ["train"]})
    with pytest.raises(UserError, match=r"evaluate\.quiz\.fields"):
        quiz.questions(empty, p.quiz, 1)
