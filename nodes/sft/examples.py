"""Make fine-tuning examples: short chats about the knowledge documents, tool trajectories, worked sums.

Every example is a list of OpenAI messages, so that one chat template serves all. Chats come from documents that
state one fact per line ("Capital: Paris"): the question names field and title, the answer is the document's own text.
"""

import json
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any

import polars as pl

from engine.rollout.verifiable import TaskSettings, available, demonstration, items

MAX_ANSWER = 160  # characters; longer field values are prose, not an answer
# Ways to ask for a field of a subject; the hash of the pair decides which one is used.
QUESTIONS = (
    "What is the {field} of {subject}?",
    "{subject}: {field}?",
    "Tell me the {field} of {subject}.",
    "I would like to know the {field} of {subject}.",
)

Row = dict[str, str]


def digest(*parts: str) -> str:
    """Return sixteen hexadecimal digits of the hash of `parts`."""
    return blake2b("\x1f".join(parts).encode(), digest_size=8).hexdigest()


def fields_of(text: str) -> Iterator[tuple[str, str]]:
    """Yield (field, value) of every line of the form "Field: value" whose value is short enough to be an answer."""
    for line in text.splitlines():
        field, colon, value = line.partition(": ")
        field, value = field.strip(" -*#"), value.strip()
        if colon and value and len(value) <= MAX_ANSWER and 2 < len(field) <= 48 and field[0].isalpha():
            yield field, value


def question_about(field: str, title: str, name: str) -> str:
    """Return a natural question; a subfield ("Area, land") is put in brackets ("area (land)")."""
    main, _, detail = field.partition(", ")
    main = main if main.isupper() or main[:2].isupper() else main[0].lower() + main[1:]
    subject = title.partition(": ")[0]
    return QUESTIONS[int(name, 16) % len(QUESTIONS)].format(
        field=f"{main} ({detail})" if detail else main, subject=subject
    )


def chats(documents: Iterable[dict[str, Any]]) -> Iterator[Row]:
    """Yield one question and answer for each short fact of each document."""
    for document in documents:
        for field, value in fields_of(str(document["text"])):
            name = digest("chat", str(document["title"]), field, value)
            question = question_about(field, str(document["title"]), name)
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": value}]
            yield _row(name, "chat", messages, [], str(document["split"]))


def demonstrations(task: TaskSettings, n: int, validation_share: float, seed: int) -> list[Row]:
    """Return worked sums of the sft split, `n` or as many as there are; the last ones serve for validation."""
    drawn = items(task, "sft", min(n, available(task, "sft")), seed)
    first_validation = len(drawn) - round(validation_share * len(drawn))
    return [
        _row(
            digest("demonstration", item.key),
            "demonstration",
            demonstration(item),
            [],
            "train" if index < first_validation else "validation",
        )
        for index, item in enumerate(drawn)
    ]


def trajectories(frame: pl.DataFrame) -> Iterator[Row]:
    """Yield the accepted tool-use dialogues."""
    for record in frame.iter_rows(named=True):
        yield {
            "id": digest("trajectory", record["id"]),
            "kind": "trajectory",
            "messages": record["messages"],
            "tools": record["tools"],
            "split": record["split"],
        }


def pick(rows: Iterable[Row], n: int, seed: int) -> list[Row]:
    """Return at most `n` rows, chosen and ordered by (seed, id) alone; a repeated id counts once."""
    by_id = {row["id"]: row for row in rows}
    return sorted(by_id.values(), key=lambda row: digest(str(seed), row["id"]))[:n]


def split_train(rows: list[Row], validation_share: float) -> list[Row]:
    """Move a share of the training rows to validation if the source has no validation rows."""
    if not rows or any(row["split"] == "validation" for row in rows):
        return rows
    bound = max(1, round(validation_share * len(rows)))
    return [{**row, "split": "validation"} if index < bound else row for index, row in enumerate(rows)]


def _row(name: str, kind: str, messages: list[dict[str, Any]], tools: list[Any], split: str) -> Row:
    return {
        "id": name,
        "kind": kind,
        "messages": json.dumps(messages, ensure_ascii=False),
        "tools": json.dumps(tools, ensure_ascii=False),
        "split": split,
    }
