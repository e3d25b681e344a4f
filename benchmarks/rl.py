"""Test whether reinforcement learning raises the held-out reward: five fresh seeds and two controls from one SFT model.

Each seed has its own prompts, samples and evaluation questions (at least 1,000), and three arms:

- `rl`: the rl stage as it is;
- `permuted`: the same with rewards shuffled among each prompt's responses, so that its gain is not due to the reward;
- `sft`: further fine-tuning for at least the CPU time that the `rl` arm took, on the same demonstrations.

Required on the sums: a median gain of `rl` of at least 5 points, and no seed significantly below zero by the paired
bootstrap's 95 % interval. Required on tasks of the tool world, where rl has that family: at least 15 % success before,
and every seed's interval above zero. The controls are reported beside it. Arms that are done are kept in the work
directory, so the benchmark can be run in pieces (`--units 3` does three and stops) and resumed after a kill.
"""

import argparse
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.report import Report, Row
from engine.artifacts.files import write_atomic
from engine.errors import UserError

ARMS = ("rl", "permuted", "sft")
LEAST_GAIN = 0.05
LEAST_TOOLS = 0.15
"""Success on held-out tool tasks that the SFT checkpoint is to start from."""
LEAST_PROMPTS = 1000
TOOL_SAMPLES = 8
"""Episodes of each held-out task: with the stage's own two, an interval is 9 points wide, with eight 6."""
CALIBRATION_STEPS = 12  # of further SFT, to learn what a step costs; the first two are dropped

Result = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for inputs, seeds and the number of arms to run now."""
    parser.add_argument("--profile", default="laptop", help="whose parameters and artifacts (default: laptop)")
    parser.add_argument("--tokenizer", type=Path, help="default: data/PROFILE/tokenization/tokenizer")
    parser.add_argument("--checkpoint", type=Path, help="default: data/PROFILE/sft/sft_checkpoint")
    parser.add_argument("--examples", type=Path, help="default: data/PROFILE/sft/sft_examples")
    parser.add_argument("--shards", type=Path, help="default: data/PROFILE/tokenization/shards")
    parser.add_argument("--tasks", type=Path, help="default: data/PROFILE/tooluse/tasks")
    parser.add_argument("--work", type=Path, help="finished arms (default: data/PROFILE/.work/benchmark-rl)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[2001, 2002, 2003, 2004, 2005])
    parser.add_argument(
        "--tool-samples", type=int, default=TOOL_SAMPLES, help=f"episodes of a held-out task (default: {TOOL_SAMPLES})"
    )
    parser.add_argument("--units", type=int, default=None, help="do at most this many arms now (default: all)")


def run(arguments: argparse.Namespace) -> Report | None:
    """Run the remaining arms, at most `--units`; return the report once all are done, else None."""
    bench = Bench(arguments)
    remaining = [(seed, arm) for seed in arguments.seeds for arm in ARMS if bench.result(seed, arm) is None]
    now = remaining if arguments.units is None else remaining[: arguments.units]
    for seed, arm in now:
        print(f"seed {seed}, {arm}: {json.dumps(bench.do(seed, arm))}", flush=True)
    if len(now) < len(remaining):
        total = len(arguments.seeds) * len(ARMS)
        print(f"{len(remaining) - len(now)} of {total} arms are left; run the same command again")
        return None
    return summarise(
        arguments.seeds, {(s, a): bench.result(s, a) or {} for s in arguments.seeds for a in ARMS}, bench.settings()
    )


class Bench:
    """Inputs, parameters and finished arms."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        data = Path("data") / arguments.profile
        self.tokenizer: Path = arguments.tokenizer or data / "tokenization" / "tokenizer"
        self.checkpoint: Path = arguments.checkpoint or data / "sft" / "sft_checkpoint"
        self.examples: Path = arguments.examples or data / "sft" / "sft_examples"
        self.shards: Path = arguments.shards or data / "tokenization" / "shards"
        self.tasks: Path = arguments.tasks or data / "tooluse" / "tasks"
        self.work: Path = arguments.work or data / ".work" / "benchmark-rl"
        for path in (self.tokenizer, self.checkpoint, self.examples, self.shards, self.tasks):
            if not path.exists():
                raise UserError(
                    f"{path} does not exist: run `make run PROFILE={arguments.profile}` first, or name another."
                )
        self.parameters = {stage: stage_parameters(stage, arguments.profile) for stage in ("sft", "rl")}
        more = {"evaluation_samples": arguments.tool_samples}
        self.parameters["rl"] |= {"tools": self.parameters["rl"]["tools"] | more}
        if self.parameters["rl"]["evaluation_prompts"] < LEAST_PROMPTS:
            raise UserError(
                f"rl.evaluation_prompts of {arguments.profile} is below {LEAST_PROMPTS}: the interval asks for more."
            )
        self._same_inputs()

    def _same_inputs(self) -> None:
        """Refuse to mix arms of another checkpoint or other parameters into one result."""
        from engine.artifacts.files import digest_file

        inputs = {"checkpoint": digest_file(self.checkpoint / "model.safetensors"), "parameters": self.parameters}
        path = self.work / "inputs.json"
        if path.exists() and json.loads(path.read_bytes()) != inputs:
            raise UserError(
                f"{self.work} holds arms of another checkpoint or parameters: name another --work or delete it."
            )
        write_atomic(path, json.dumps(inputs, indent=2).encode())

    def settings(self) -> dict[str, Any]:
        """Return the report's settings of the run."""
        return {"inputs": json.loads((self.work / "inputs.json").read_bytes()), "least_gain": LEAST_GAIN}

    def result(self, seed: int, arm: str) -> Result | None:
        """Return a finished arm's result."""
        path = self.work / f"{seed}-{arm}" / "result.json"
        return dict(json.loads(path.read_bytes())) if path.exists() else None

    def do(self, seed: int, arm: str) -> Result:
        """Run one arm from its start and keep its result; weights and rollouts are dropped.

        A killed arm's files are dropped too: an arm that was resumed from them would count too little CPU time.
        """
        folder = self.work / f"{seed}-{arm}"
        run_at = folder / "run"
        shutil.rmtree(run_at, ignore_errors=True)
        run_at.mkdir(parents=True, exist_ok=True)
        start = time.process_time()
        result = self._further_sft(seed, run_at) if arm == "sft" else self._rl(seed, arm, run_at)
        result["cpu_seconds"] = round(time.process_time() - start, 1)
        write_atomic(folder / "result.json", json.dumps(result, indent=2).encode())
        shutil.rmtree(run_at)
        return result

    def _rl(self, seed: int, arm: str, workspace: Path) -> Result:
        import polars as pl

        from nodes.rl.nodes import train_rl

        reward = "permuted" if arm == "permuted" else "verifier"
        parameters = {**self.parameters["rl"], "seed": seed, "reward": reward}
        examples, tasks = (pl.scan_parquet(table / "*.parquet") for table in (self.examples, self.tasks))
        return train_rl(self.tokenizer, self.checkpoint, examples, self.shards, tasks, parameters, workspace)[3]

    def _further_sft(self, seed: int, workspace: Path) -> Result:
        """Fine-tune on for as long as the seed's rl arm took, calibration included, then measure alike."""
        import polars as pl

        from engine.model.checkpoint import load_checkpoint
        from engine.text.tokenizer import K2Tokenizer
        from nodes.rl.outcome import outcome
        from nodes.rl.rewards import families_of
        from nodes.rl.schema import Parameters as RlParameters

        budget = (self.result(seed, "rl") or {})["cpu_seconds"]
        tokenizer = K2Tokenizer.load(self.tokenizer)
        tune = self._tuner(seed, tokenizer)
        start = time.process_time()
        tune(2, workspace / "warm-up")
        first = time.process_time()
        tune(CALIBRATION_STEPS, workspace / "calibration")
        a_step = (time.process_time() - first) / CALIBRATION_STEPS
        steps = max(CALIBRATION_STEPS, round((budget - (time.process_time() - start)) / a_step))
        after = tune(steps, workspace / "training")
        p = RlParameters.model_validate({**self.parameters["rl"], "seed": seed})
        before = load_checkpoint(self.checkpoint)
        families = families_of(tokenizer, before.config, pl.scan_parquet(self.tasks / "*.parquet"), p)
        return {**outcome(before, after, families, p), "steps": steps}

    def _tuner(self, seed: int, tokenizer: Any) -> Callable[[int, Path], Any]:
        import polars as pl

        from engine.model.checkpoint import load_checkpoint
        from engine.training.examples import encode
        from engine.training.natural import NaturalText
        from nodes.sft.schema import Parameters
        from nodes.sft.train import fine_tune

        train = pl.scan_parquet(self.examples / "*.parquet").filter(pl.col("split") == "train").collect()
        given = self.parameters["sft"]
        encoded = encode(train.iter_rows(named=True), tokenizer, given["max_tokens"], values=True)

        def tune(steps: int, work: Path) -> Any:
            changes = {
                "steps": steps,
                "seed": seed,
                "warmup_steps": min(given["warmup_steps"], steps - 1),
                # on from the rate at which SFT ended: back at its peak, 45 to 63 steps lost 12 to 15 points
                "learning_rate": given["learning_rate"] * given["final_rate"],
                "threads": 1,  # a second one that waits is CPU time too
            }
            model = load_checkpoint(self.checkpoint)
            p = Parameters.model_validate({**given, **changes})
            natural = NaturalText(self.shards, tokenizer, p.natural.windows, p.natural.tokens, p.seed)
            fine_tune(model, encoded, natural, p, work)
            return model

        return tune


def stage_parameters(stage: str, profile: str) -> dict[str, Any]:
    """Return the parameters of a stage in a profile: the base file with the profile's deep-merged over it."""
    import yaml

    merged: dict[str, Any] = {}
    for environment in ("base", profile):
        path = Path("conf") / environment / "parameters" / f"{stage}.yml"
        if path.exists():
            merged = _merge(merged, yaml.safe_load(path.read_text(encoding="utf-8"))[stage])
    return merged


def _merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = {**under, **over}
    for name in under.keys() & over.keys():
        if isinstance(under[name], dict) and isinstance(over[name], dict):
            both[name] = _merge(under[name], over[name])
    return both


def summarise(seeds: list[int], results: dict[tuple[int, str], Result], settings: dict[str, Any]) -> Report:
    """Return a row for each arm and seed, then the medians of the three arms."""
    rows = [_row(seed, arm, results[seed, arm]) for seed in seeds for arm in ARMS]
    gains = {arm: median(100 * results[seed, arm]["reward_gain"] for seed in seeds) for arm in ARMS}
    before = 100 * median(results[seed, "rl"]["reward_before"] for seed in seeds)
    least = 100 * LEAST_GAIN
    rows += [
        Row("median gain, rl", gains["rl"], "points", "reward before", before, f">= {least:g}", gains["rl"] >= least),
        Row("median gain, permuted rewards", gains["permuted"], "points", "median gain, rl", gains["rl"]),
        Row("median gain, further SFT", gains["sft"], "points", "median gain, rl", gains["rl"]),
    ]
    if all("tools_reward_gain" in result for result in results.values()):
        rows += _tool_rows(seeds, results)
    return Report({**settings, "seeds": seeds, "results": {f"{s}-{a}": r for (s, a), r in results.items()}}, rows)


def _tool_rows(seeds: list[int], results: dict[tuple[int, str], Result]) -> list[Row]:
    """Return the same for tasks of the tool world: a row for each arm and seed, then the start and the gain."""
    rows = []
    for seed in seeds:
        for arm in ARMS:
            result = {name.removeprefix("tools_"): value for name, value in results[seed, arm].items()
                      if name.startswith("tools_")}  # fmt: skip
            row = _row(seed, arm, {**result, "cpu_seconds": results[seed, arm]["cpu_seconds"]})
            above = result["reward_gain_low"] > 0
            target, ok = ("interval above zero", above) if arm == "rl" else (None, None)
            rows.append(replace(row, case=f"tools, {row.case}", target=target, ok=ok))
    start = median(100 * results[seed, "rl"]["tools_reward_before"] for seed in seeds)
    least = 100 * LEAST_TOOLS
    rows.append(Row("tools, success before", start, "%", "required", least, f">= {least:g}", start >= least))
    for arm in ARMS:
        gain = median(100 * results[seed, arm]["tools_reward_gain"] for seed in seeds)
        rows.append(Row(f"tools, median gain, {arm}", gain, "points", "success before", start))
    return rows


def _row(seed: int, arm: str, result: Result) -> Row:
    low, high = result["reward_gain_low"], result["reward_gain_high"]
    interval = f"gain {100 * result['reward_gain']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
    return Row(
        case=f"seed {seed}, {arm}: {interval}, {result['cpu_seconds']:.0f} CPU s",
        value=result["reward_after"],
        unit="held-out reward",
        baseline="SFT checkpoint",
        baseline_value=result["reward_before"],
        target="not significantly below" if arm == "rl" else None,
        ok=high >= 0 if arm == "rl" else None,
    )
