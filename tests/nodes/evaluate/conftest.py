"""Invented results for tests of the report, and one tiny tokenizer and model for tests of the suites."""

import random

import pytest

from nodes.evaluate.report.comparison import SuiteInfo
from nodes.evaluate.report.content import Facts
from nodes.evaluate.report.sources import Source
from nodes.evaluate.results import Row, SuiteResult

CHECKPOINTS = ("base", "extended", "sft", "rl")
HEADLINES = {"quiz": "quiz/all", "arithmetic": "arithmetic/sampled"}


def _bits(level: float) -> SuiteResult:
    nats, size = [level * 100.0, level * 90.0, level * 110.0], [100.0, 100.0, 100.0]
    rows = [Row("bits_per_byte/all", "all text", level, "bits/byte", "lower", 3, level - 0.1, level + 0.1)]
    rows += [Row(f"bits_per_byte/{d}", d, level + 0.1, "bits/byte", "lower", 3) for d in ("web", "code")]
    return SuiteResult(tuple(rows), {"bits_per_byte/all": [nats, size]})


def _share(suite: str, share: float, chance: float | None = None) -> SuiteResult:
    right = [float(random.Random(i).random() < share) for i in range(200)]
    value = sum(right) / 200
    row = Row(HEADLINES[suite], f"{suite}, right", value, "share", "higher", 200, value - 0.05, value + 0.05, chance)
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
    results["sft"]["tools"] = SuiteResult((), {}, {"problems": {"call id 'a|b' is <odd>": 3}})
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


FACTS = {
    "Chile": "Santiago", "Peru": "Lima", "Japan": "Tokyo", "Kenya": "Nairobi", "Norway": "Oslo", "Cuba": "Havana",
}  # fmt: skip
SUMS = "4-1-7=-4\n2+2+9=13\n"


def knowledge_text(country: str) -> str:
    return f"{country} - Government\n\nCapital, name: {FACTS[country]}\nMap references: the world\nNote: see the atlas"


@pytest.fixture(scope="session")
def tok(tmp_path_factory):
    from engine.text import bpe
    from engine.text.tokenizer import K2Tokenizer

    directory = tmp_path_factory.mktemp("tokenizer")
    texts = [knowledge_text(c) for c in FACTS] + [SUMS * 5, "You are Kimi, an AI assistant created by Moonshot AI."]
    bpe.save(bpe.train(texts, vocab_size=330, n_special=20, max_digits=1), directory, context_length=512)
    tokenizer = K2Tokenizer.load(directory)
    tokenizer.home = directory
    return tokenizer


@pytest.fixture(scope="session")
def shards(tok, tmp_path_factory):
    """A test split of two natural domains, and a synthetic one that no suite may look at."""
    import numpy as np

    from engine.text.shard_writer import Entry, ShardWriter
    from engine.text.shards import TokenShards

    directory = tmp_path_factory.mktemp("shards") / "shards"
    writer = ShardWriter(directory, tok, shard_tokens=1 << 20)
    natural = {"knowledge": [knowledge_text(c) for c in FACTS] * 4, "maths": [SUMS * 8] * 4}
    for domain, texts, kind in [
        *((d, t, "natural") for d, t in natural.items()),
        ("rewrites", ["zzz " * 400], "synthetic"),
    ]:
        ids = [np.array([*tok.encode(text), tok.eos_id]) for text in texts]
        entries = [Entry(f"{domain}{i}", domain, 0, len(t.encode()), x) for i, (t, x) in enumerate(zip(texts, ids))]
        writer.write("test", domain, kind, entries)
    packed = [Entry(c, "knowledge", 0, 1, np.array([*tok.encode(c), tok.eos_id])) for c in (*FACTS, "part", "code")]
    writer.write("train", "knowledge", "natural", packed)
    writer.close({"weights": {}})
    return TokenShards.open(directory, tok)


@pytest.fixture(scope="session")
def data(shards):
    import polars as pl

    from nodes.evaluate.suites.material import Material
    from nodes.tooluse.agents import make_agents
    from nodes.tooluse.schema import Parameters as ToolUse
    from nodes.tooluse.tasks import make_tasks

    rows = [(c, "train", "knowledge", knowledge_text(c)) for c in FACTS]
    rows += [("part", "train", "knowledge", "Capital, name: Nowhere\n\nCapital, name: Nowhere")]
    rows += [("unpacked", "train", "knowledge", "Mars - Government\n\nCapital, name: Olympus")]
    rows += [("code", "train", "code", "x - y\n\nCapital, name: Code")]
    documents = pl.DataFrame(rows, schema=["id", "split", "domain", "text"], orient="row")
    p = ToolUse.model_validate(base_parameters("tooluse") | {"tasks": 60})
    agents = make_agents(p.seed, ["bank", "hotel"], 4, p.tools_per_agent)
    tasks = pl.DataFrame([task.to_row() for task in make_tasks(agents, p)])
    return Material(shards, documents.lazy(), tasks.lazy())


def base_parameters(stage: str, profile: str = "base") -> dict:
    from pathlib import Path

    import yaml

    root = Path(__file__).resolve().parents[3]
    return yaml.safe_load((root / f"conf/{profile}/parameters/{stage}.yml").read_text())[stage]


@pytest.fixture(scope="session")
def base_of():
    return base_parameters


@pytest.fixture(scope="session")
def smoke_of():
    return lambda stage: base_parameters(stage, "smoke")


@pytest.fixture(scope="session")
def p():
    from nodes.evaluate.schema import Parameters

    return Parameters.model_validate(
        base_parameters("evaluate")
        | {
            "threads": 1,
            "bits_per_byte": {"window": 24, "windows": 6, "batch": 4},
            "quiz": {"fields": {"Capital, name": "capital", "Map references": "region"}, "questions": 5, "choices": 4,
                     "max_answer_bytes": 20, "batch": 8},
            "arithmetic": {"task": {}, "prompts": 20, "temperature": 1.0, "max_new_tokens": 6},
            "tools": {"split": "test", "episodes": 3, "max_new_tokens": 8, "temperature": 1.0},
            "lengths": {"length": 64, "windows": 3, "buckets": 8},
            "samples": {"texts": ["Chile - "], "chats": ["4-1-7="], "max_new_tokens": 4},
        }
    )  # fmt: skip


def tiny_model(tok, seed: int = 0, scaling: dict | None = None):
    from engine.model.config import K2Config
    from engine.model.model import K2Model

    config = K2Config(
        vocab_size=tok.vocab_size, hidden_size=32, intermediate_size=64, moe_intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, q_lora_rank=16, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8,
        n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1, first_k_dense_replace=1,
        routed_scaling_factor=1.5, max_position_embeddings=2048, rope_scaling=scaling,
    )  # fmt: skip
    return K2Model(config, seed)


@pytest.fixture(scope="session")
def tiny(tok):
    return tiny_model(tok).eval()


@pytest.fixture(scope="session")
def make_tiny(tok):
    return lambda seed, scaling: tiny_model(tok, seed, scaling)
