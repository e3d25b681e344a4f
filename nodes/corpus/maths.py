"""The maths source: worked problems of several reasoning-gym generators, and drill sheets of the verifiable sums.

The sums come from the `pretrain` split of `engine.rollout.verifiable`, never from the generator, so that
pre-training has not read what SFT, RL and evaluation ask.
"""

import re
from collections.abc import Iterator
from importlib.metadata import version

from engine.errors import UserError
from engine.rollout.verifiable import Item, TaskSettings, available, items
from nodes.corpus.document import Origin, RawDocument, unit_hash
from nodes.corpus.sources import MathsSource
from nodes.corpus.worked import SOLUTIONS, Entry, answer_of, question_of


def maths_origin() -> Origin:
    """Return the package that generates and verifies the problems as origin."""
    return Origin("reasoning-gym (PyPI): generated problems, worked out here", version("reasoning-gym"))


def read_maths(source: MathsSource, seed: int) -> Iterator[RawDocument]:
    """Yield documents of `problems_per_document` worked problems of one kind, then the drill sheets."""
    for task, count in sorted(source.tasks.items()):
        if count:
            yield from _worked_problems(task, count, source.problems_per_document, seed)
    yield from _drill_sheets(source, seed)


def _worked_problems(task: str, count: int, per_document: int, seed: int) -> Iterator[RawDocument]:
    if task not in SOLUTIONS:
        raise UserError(
            f"parameters/corpus.yml: corpus.sources.*.tasks names {task!r}, for which no worked solution is "
            f"written; take some of {', '.join(SOLUTIONS)}"
        )
    import reasoning_gym  # two seconds, and only this source needs it

    title, solve = SOLUTIONS[task]
    dataset = reasoning_gym.create_dataset(task, size=count, seed=seed)
    problems = [_problem(entry, solve(entry)) for entry in dataset]
    for start in range(0, len(problems), per_document):
        group = problems[start : start + per_document]
        yield RawDocument(f"{title}, worked problems {start + 1} to {start + len(group)}", "\n\n".join(group))


def _problem(entry: Entry, solution: list[str]) -> str:
    steps = "\n".join(solution)
    return f"Problem: {question_of(entry)}\nSolution:\n{steps}\nAnswer: {answer_of(entry)}"


def _drill_sheets(source: MathsSource, seed: int) -> Iterator[RawDocument]:
    task = TaskSettings(**source.sum_task)
    have = available(task, "pretrain")
    if source.sums > have:
        raise UserError(
            f"parameters/corpus.yml: corpus.sources.*.sums asks for {source.sums} sums, but the pretrain split "
            f"holds {have}: lower it, or widen sum_task"
        )
    drawn = items(task, "pretrain", source.sums, seed)
    for number, start in enumerate(range(0, len(drawn), source.sums_per_document), 1):
        group = drawn[start : start + source.sums_per_document]
        for form in source.sum_forms:
            # Each form has its own order, because compact and spaced sheets would otherwise be near-duplicates.
            ordered = sorted(group, key=lambda item: unit_hash(seed, form, item.key))
            text = "\n".join(write_sum(item, form) for item in ordered)
            yield RawDocument(f"Sums, {form} sheet {number}", text, group=f"sums {number}")


def write_sum(item: Item, form: str) -> str:
    """Return one sum: compact `4-1-7=-4`, spaced `4 - 1 - 7 = -4`, or worked from left to right."""
    if form == "compact":
        return f"{item.prompt}{item.answer}"
    spaced = re.sub(r"([+\-])", r" \1 ", item.prompt.rstrip("="))
    if form == "spaced":
        return f"{spaced} = {item.answer}"
    return f"{spaced}: {'; '.join(_steps(spaced))}. Answer: {item.answer}"


def _steps(spaced: str) -> Iterator[str]:
    first, *rest = spaced.split(" ")
    total = int(first)
    for sign, number in zip(rest[::2], rest[1::2]):
        after = total + int(number) if sign == "+" else total - int(number)
        yield f"{total} {sign} {number} = {after}"
        total = after
