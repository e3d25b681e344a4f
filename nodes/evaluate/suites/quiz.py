"""Multiple choice by likelihood over facts of the training text, in the text's own form.

A knowledge document names its subject in its first line ("Chile - Government") and states one fact per line
("Capital, name: Santiago"). A question is the subject and a field; the answers offered are the true value and values
of the same field from other documents. The model's answer is the one whose likelihood the subject raises most:
log-likelihood after subject and field, less that after the field alone (domain-conditional PMI, Holtzman et al. 2021).
Without this a model is rewarded for knowing which answers are long or common: an untrained one scores 53 % on the
elements' series.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from engine.errors import UserError
from engine.intervals import clustered_share
from engine.model.model import K2Model
from engine.text.permutation import key
from engine.text.tokenizer import K2Tokenizer
from nodes.evaluate.results import Row, SuiteResult
from nodes.evaluate.schema import Parameters, Quiz
from nodes.evaluate.suites.likelihood import continuation_logprobs
from nodes.evaluate.suites.material import Material

TITLE: Final = "Knowledge quiz"
ABOUT: Final = (
    "Facts that stood in the training text, in its own form and without the chat format. Wrong choices are true of "
    "other subjects; the answer is the choice whose likelihood the subject raises most, so that neither length nor "
    "frequency of an answer pays. Intervals are clustered by subject."
)


@dataclass(frozen=True)
class Question:
    """A question: `subject` and `field` are its context; `answers` begin with a space, `right` is the index."""

    field: str
    subject: str
    answers: tuple[str, ...]
    right: int


def run(model: K2Model, tok: K2Tokenizer, data: Material, p: Parameters) -> SuiteResult:
    """Return the share answered correctly, over all fields and by field."""
    quiz = questions(data.trained_documents(), p.quiz, p.seed)
    scores = answer(model, tok, quiz, p.quiz.batch)
    groups = {"quiz/all": ("all fields", list(zip(quiz, scores, strict=True)))}
    for field, name in p.quiz.fields.items():
        of_field = [(question, score) for question, score in groups["quiz/all"][1] if question.field == field]
        if of_field:
            groups[f"quiz/{name.replace(' ', '_')}"] = (name, of_field)
    rows, outcomes = [], {}
    for metric, (label, answered) in groups.items():
        right, count = outcomes[metric] = by_subject(answered)
        interval = clustered_share(right, count)
        bounds = (interval.low, interval.high, 1 / p.quiz.choices)
        rows.append(Row(metric, label, interval.value, "share", "higher", len(right), *bounds))
    return SuiteResult(tuple(rows), outcomes)


def by_subject(answered: Iterable[tuple[Question, float]]) -> list[list[float]]:
    """Return the right answers and the questions of each subject, in order; knowledge of one subject is correlated."""
    totals: dict[str, list[float]] = {}
    for question, score in answered:
        total = totals.setdefault(question.subject, [0.0, 0.0])
        total[0] += score
        total[1] += 1.0
    return [[total[part] for total in totals.values()] for part in (0, 1)]


def answer(model: K2Model, tok: K2Tokenizer, quiz: Sequence[Question], batch: int) -> list[float]:
    """Return 1.0 for each question whose right answer gains most from the subject, else 0.0."""
    pairs = [(q, a) for q in quiz for a in q.answers]
    with_subject = continuation_logprobs(
        model, [(_ids(tok, q.subject, q.field), tok.encode(a)) for q, a in pairs], batch
    )
    alone = list(dict.fromkeys((q.field, a) for q, a in pairs))
    without_subject = continuation_logprobs(model, [(_ids(tok, "", field), tok.encode(a)) for field, a in alone], batch)
    prior = dict(zip(alone, without_subject, strict=True))
    gains = iter([value - prior[q.field, a] for value, (q, a) in zip(with_subject, pairs, strict=True)])
    scores = []
    for question in quiz:
        own_gains = [next(gains) for _ in question.answers]
        scores.append(1.0 if own_gains.index(max(own_gains)) == question.right else 0.0)
    return scores


def _ids(tok: K2Tokenizer, subject: str, field: str) -> list[int]:
    """Return the ids of the document up to the field's colon, after the token that precedes a document in training."""
    return [tok.eos_id, *tok.encode(f"{subject}\n\n{field}:" if subject else f"{field}:")]


def questions(documents: pl.LazyFrame, settings: Quiz, seed: int) -> list[Question]:
    """Return at most `settings.questions` per field, drawn by hash, without fields that have too few different values.

    Raises UserError if no field gives a question.
    """
    drawn_questions: list[Question] = []
    facts = read_facts(documents, settings)
    for field, of_field in facts.items():
        values = sorted({value for _, value in of_field})
        if len(values) < settings.choices:
            continue
        drawn = sorted(of_field, key=lambda fact: key(seed, "quiz", field, *fact))[: settings.questions]
        drawn_questions += [
            _question(field, subject, value, values, settings.choices, seed) for subject, value in drawn
        ]
    if not drawn_questions:
        raise UserError(
            f"parameters/evaluate.yml: no field of evaluate.quiz.fields ({', '.join(settings.fields)}) has "
            f"{settings.choices} different values in the knowledge documents: name fields that they hold."
        )
    return drawn_questions


def read_facts(documents: pl.LazyFrame, settings: Quiz) -> dict[str, list[tuple[str, str]]]:
    """Return field → (subject, value) of every short fact in knowledge documents whose first line is a subject."""
    facts: dict[str, list[tuple[str, str]]] = {field: [] for field in settings.fields}
    texts = documents.filter(pl.col("domain") == "knowledge").select("id", "text").collect().sort("id")
    for text in texts["text"]:
        subject, _, body = text.partition("\n\n")
        if ": " in subject or "\n" in subject:
            continue
        for line in body.splitlines():
            field, _, value = line.partition(": ")
            if field in facts and 0 < len(value.encode()) <= settings.max_answer_bytes:
                facts[field].append((subject, value))
    return facts


def _question(field: str, subject: str, value: str, values: Sequence[str], choices: int, seed: int) -> Question:
    wrong = sorted((v for v in values if v != value), key=lambda v: key(seed, "choice", field, subject, v))
    right = key(seed, "place", field, subject) % choices
    answers = [f" {v}" for v in wrong[: choices - 1]]
    answers.insert(right, f" {value}")
    return Question(field, subject, tuple(answers), right)
