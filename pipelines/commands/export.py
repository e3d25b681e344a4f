"""`make export`: write a checkpoint in Hugging Face's layout, for transformers, vLLM or SGLang.

    python -m pipelines.commands.export --env laptop --checkpoint rl --dtype bfloat16 --out DIR [--shard-gb 5]

The directory appears whole or not at all. `make import` reads it again.
"""

import argparse
import math
import shutil
from pathlib import Path

from engine.artifacts import files
from engine.errors import UserError
from pipelines import graph
from pipelines.checkpoints import checkpoints, dataset_of, last
from pipelines.errors import report_errors
from pipelines.stages_file import load_stages_file


def main() -> None:
    """Export as the command line asks and say what was written."""
    with report_errors():
        parser = argparse.ArgumentParser(description="A checkpoint in Hugging Face's layout.")
        parser.add_argument("--env", default=None, help="profile")
        parser.add_argument("--checkpoint", default=last(), help=f"one of {', '.join(checkpoints())}")
        parser.add_argument("--dtype", default="bfloat16", help="float32, bfloat16, or fp8 as K2 was released")
        parser.add_argument("--out", default=None, help="a new directory (data/<profile>/export/<checkpoint>-<dtype>)")
        parser.add_argument("--shard-gb", type=float, default=5.0, help="most gigabytes of a shard")
        arguments = parser.parse_args()
        profile = load_stages_file().profile(arguments.env)
        default = graph.data_folder(profile) / "export" / f"{arguments.checkpoint}-{arguments.dtype}"
        export(
            profile,
            arguments.checkpoint,
            arguments.dtype,
            Path(arguments.out or default),
            shard_bytes(arguments.shard_gb),
        )


def shard_bytes(gigabytes: float) -> int:
    """Return a shard's size limit in bytes. Raises UserError for a limit that is not positive and finite."""
    if not 1e-9 <= gigabytes < math.inf:
        raise UserError(f"a shard of {gigabytes} GB cannot be made: give SHARD_GB=… a positive number, such as 5.")
    return round(gigabytes * 1e9)


def export(profile: str, checkpoint: str, dtype: str, out: Path, shard_bytes: int) -> None:
    """Write a profile's checkpoint to `out`. UserError where that exists, or the checkpoint does not."""
    dataset = dataset_of(checkpoint)
    if out.exists():
        raise UserError(f"{out} is there already: remove it or name another directory with OUT=….")
    weights = graph.dataset(profile, dataset).load()
    tokenizer = graph.dataset(profile, "tokenizer").load()
    from engine.model.export import export_checkpoint

    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        summary = export_checkpoint(weights, tokenizer, partial, dtype, shard_bytes)
        files.publish(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"{out}: {summary.tensors:,} tensors, {summary.bytes:,} bytes in {summary.shards} shards ({dtype})")


if __name__ == "__main__":
    main()
