"""Run every suite on every checkpoint, one at a time; a finished pair survives a kill."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from engine.artifacts.files import canonical_json, read_object, write_atomic
from engine.model.checkpoint import load_checkpoint
from engine.model.model import K2Model
from engine.progress import progress
from engine.text.tokenizer import K2Tokenizer
from engine.training.journal import TIMING
from nodes.evaluate.results import Results, SuiteResult
from nodes.evaluate.schema import Parameters
from nodes.evaluate.suites.material import Material
from nodes.evaluate.suites.registry import SUITES, Suite


def evaluate_all(
    checkpoints: Mapping[str, Path], tok: K2Tokenizer, data: Material, p: Parameters, workspace: Path
) -> Results:
    """Return results by checkpoint and suite; those already in `workspace` are read, not measured again."""
    results: Results = {}
    with progress("evaluate", len(checkpoints) * len(SUITES)) as bar:
        for name, directory in checkpoints.items():
            model: K2Model | None = None
            results[name] = {}
            for suite in SUITES:
                kept = workspace / "results" / f"{name}-{suite.info.name}.json"
                if not kept.exists():
                    model = model or load_checkpoint(directory).eval()
                    _measure(suite, model, tok, data, p, kept)
                results[name][suite.info.name] = SuiteResult.from_dict(read_object(kept))
                bar.advance(checkpoint=name, suite=suite.info.title)
    return results


def _measure(suite: Suite, model: K2Model, tok: K2Tokenizer, data: Material, p: Parameters, kept: Path) -> None:
    began = time.monotonic()
    with torch.no_grad():
        result = suite.run(model, tok, data, p)
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(kept, canonical_json(result.to_dict()))
    clock = {"what": kept.stem, "seconds": round(time.monotonic() - began, 3)}
    with (kept.parent.parent / TIMING).open("a", encoding="utf-8") as file:
        file.write(json.dumps(clock) + "\n")
