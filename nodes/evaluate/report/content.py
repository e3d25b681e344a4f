"""Gather everything that the templates say in one place; the templates only lay it out."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodes.evaluate.report.abilities import abilities
from nodes.evaluate.report.changes import changes
from nodes.evaluate.report.comparison import Section, SuiteInfo, compare, value_text_of
from nodes.evaluate.report.sources import Source
from nodes.evaluate.results import Results

PUBLISHED = Path(__file__).with_name("published.json")

STAGES = {
    "pretrain": "Pre-training",
    "extend": "Context extension",
    "sft": "Fine-tuning",
    "rl": "Reinforcement learning",
}
"""Training stages with the name that a reader knows; another is called by its own name in the recipe."""

BASELINES = {
    "bigram_bits_per_byte": "bigram",
    "kneser_ney_3gram_bits_per_byte": "Kneser–Ney 3-gram",
    "kneser_ney_5gram_bits_per_byte": "Kneser–Ney 5-gram",
    "validation_bits_per_byte": "base checkpoint",
}
"""Pre-training's metrics that compare counting with learning, on the validation split."""


@dataclass(frozen=True)
class Facts:
    """The data of a report: results of the suites, metrics by stage, the architecture, the text sources, the seed."""

    results: Results
    suites: tuple[SuiteInfo, ...]
    metrics: Mapping[str, Mapping[str, Any]]
    architecture: Mapping[str, Any]
    parameters: int
    sources: tuple[Source, ...]
    seed: int


@dataclass(frozen=True)
class Card:
    """One headline: a measure, at the first and at the last checkpoint that has it."""

    title: str
    unit: str
    first: tuple[str, str]
    last: tuple[str, str]
    improved: bool


def gather(facts: Facts) -> dict[str, Any]:
    """Return the templates' variables, except for the plots."""
    sections = compare(facts.results, facts.suites)
    return {
        "checkpoints": list(facts.results),
        "sections": sections,
        "cards": cards(sections),
        "abilities": abilities(facts.results, facts.metrics.get("pretrain", {})),
        "changes": changes(facts.results, facts.suites, facts.seed),
        "samples": samples(facts.results),
        "published": json.loads(PUBLISHED.read_text(encoding="utf-8")),
        "titles": {suite.name: suite.title for suite in facts.suites},
        "faults": faults(facts.results),
        "baselines": baselines(facts.metrics.get("pretrain", {})),
        "recipe": {
            STAGES.get(stage, stage.replace("_", " ").capitalize()): dict(metrics)
            for stage, metrics in facts.metrics.items()
        },
        "architecture": facts.architecture,
        "parameters": facts.parameters,
        "sources": facts.sources,
        "documents": sum(source.documents for source in facts.sources),
        "bytes": sum(source.bytes for source in facts.sources),
    }


def cards(sections: Sequence[Section]) -> list[Card]:
    """Return the first line of every section, from the first checkpoint that has it to the last."""
    headlines = []
    for section in sections:
        line = section.lines[0]
        rows = [(name, row) for name, row in line.cells.items() if row is not None]
        (first, old), (last, new) = rows[0], rows[-1]
        improved = new.value < old.value if old.better == "lower" else new.value > old.value
        title = f"{section.suite.title}: {line.label}"
        unit = "" if new.unit == "share" else new.unit
        headlines.append(Card(title, unit, (first, value_text_of(old)), (last, value_text_of(new)), improved))
    return headlines


def samples(results: Results) -> list[dict[str, Any]]:
    """Return prompts with every checkpoint's response: [{prompt, kind, responses: {checkpoint: text}}]."""
    by_checkpoint = {
        name: suites["samples"].details["samples"] for name, suites in results.items() if "samples" in suites
    }
    if not by_checkpoint:
        return []
    prompts = next(iter(by_checkpoint.values()))
    return [
        {
            "prompt": prompt["prompt"],
            "kind": prompt["kind"],
            "responses": {name: answers[index]["response"] for name, answers in by_checkpoint.items()},
        }
        for index, prompt in enumerate(prompts)
    ]


def faults(results: Results) -> dict[str, dict[str, int]]:
    """Return checkpoint → most common faults in its tool use, with the number of episodes that had them."""
    by_checkpoint = {
        name: suites["tools"].details.get("problems", {}) for name, suites in results.items() if "tools" in suites
    }
    return {
        name: dict(sorted(problems.items(), key=lambda pair: (-pair[1], pair[0])))
        for name, problems in by_checkpoint.items()
        if problems
    }


def baselines(metrics: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return bits per byte that pre-training measured on one text: n-gram models and the base checkpoint, best last."""
    figures = [(title, float(metrics[name])) for name, title in BASELINES.items() if name in metrics]
    return sorted(figures, key=lambda pair: -pair[1])
