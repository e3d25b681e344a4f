"""Invented results for tests of the report, and one tiny tokenizer and model for tests of the suites."""

import random

import pytest

from nodes.evaluate.report.comparison import SuiteInfo
from nodes.evaluate.report.content import Facts
from nodes.evaluate.report.sources import Source
from nodes.evaluate.results import Row, SuiteResult

CHECKPOINTS = ("base", "extended", "sft", "rl")


def _bits(level: float) -> SuiteResult:
    nats, size = [level * 100.0, level * 90.0, level * 110.0], [100.0, 100.0, 100.0]
    rows = [Row("bits_per_byte/all", "all text", level, "bits/byte", "lower", 3, level - 0.1, level + 0.1)]
    rows += [Row(f"bits_per_byte/{d}", d, level + 0.1, "bits/byte", "lower", 3) for d in ("web", "code")]
    return SuiteResult(tuple(rows), {"bits_per_byte/all": [nats, size]})


def _share(suite: str, share: float, chance: float | None = None) -> SuiteResult:
    right = [float(random.Random(i).random() < share) for i in range(200)]
    value = sum(right) / 200
    row = Row(f"{suite}/share", f"{suite}, right", value, "share", "higher", 200, value - 0.05, value + 0.05, chance)
    return SuiteResult((row,), {row.metric: [right, [1.0] * 200]})


def _lengths(level: float, trained: int) -> SuiteResult:
    curve = {
        "positions": [8, 64, 256, 512],
        "nats": [level, level - 0.5, level - 0.6, level],
        "trained_length": trained,
    }
    return SuiteResult((Row("lengths/beyond", "beyond", level, "nats/token", "lower", 4),), {}, {"curve": curve})


def invented_results() -> dict[str, dict[str, SuiteResult]]:
    results = {}
    for i, name in enumerate(CHECKPOINTS):
        samples = [
            {"prompt": "a | b\n```<script>x</script>", "kind": "Continue", "response": f"{name} & `co`"},
            {"prompt": "4-1-7=", "kind": "Sum", "response": ""},
        ]
        results[name] = {
            "bits_per_byte": _bits(2.2 - 0.05 * i),
            "quiz": _share("quiz", 0.3, 0.25),
            "arithmetic": _share("arithmetic", 0.05 + 0.25 * i),
            "samples": SuiteResult((), {}, {"samples": samples}),
        }
    results["base"]["lengths"] = _lengths(3.5, 256)
    results["extended"]["lengths"] = _lengths(3.2, 512)
    return results


@pytest.fixture(scope="session")
def facts() -> Facts:
    return Facts(
        results=invented_results(),
        suites=tuple(
            SuiteInfo(name, name.replace("_", " ").capitalize(), f"How {name} <is> measured.")
            for name in ("bits_per_byte", "quiz", "arithmetic", "lengths", "samples")
        ),
        metrics={
            "pretrain": {
                "bigram_bits_per_byte": 2.7,
                "kneser_ney_5gram_bits_per_byte": 2.4,
                "steps": 300,
                "note": "a|b",
            },
            "rl": {"reward": 0.512345678},
        },
        architecture={"hidden_size": 128, "rope_scaling": {"type": "yarn", "factor": 4}},
        parameters=1_234_567,
        sources=(Source("stdlib", "code", "PSF-2.0", 120, 1_000_000), Source("factbook", "knowledge", "public", 9, 5)),
        seed=1,
    )
