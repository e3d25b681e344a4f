"""`make size`: show a model's parameters by block, FLOPs per token and decoding cache, without training.

python -m pipelines.commands.size --env k2
"""

import argparse
from typing import TYPE_CHECKING

from pipelines import graph
from pipelines.configuration import check_configuration
from pipelines.errors import report_errors
from pipelines.stages_file import load_stages_file

if TYPE_CHECKING:
    from rich.table import Table

    from engine.model.config import K2Config

LENGTHS = (4096, 32768, 131072)
"""Sequence lengths of K2's three stages; FLOPs are shown for them and for the profile's own."""


def main() -> None:
    """Print the tables of the profile that the command line names."""
    parser = argparse.ArgumentParser(description="Parameters by block.")
    parser.add_argument("--env", default=None, help="profile")
    with report_errors():
        profile = load_stages_file().profile(parser.parse_args().env)
        check_configuration(profile)
        print_size(profile)


def print_size(profile: str) -> None:
    """Print parameters by block, FLOPs by sequence length, and bytes of the cache."""
    from rich.console import Console

    from engine.model.parameters import config_from_parameters
    from engine.model.size import cache_size

    parameters = graph.parameters(profile)
    length = parameters["pretrain"]["sequence_length"]
    config = config_from_parameters(parameters["pretrain"]["model"], parameters["tokenization"]["vocab_size"], length)
    cache = cache_size(config)
    console = Console()
    console.print(_parameters(config, profile))
    console.print(_flops(config, sorted({length, *LENGTHS})))
    console.print(
        f"decoding keeps {cache.width} numbers a token and layer, {cache.bytes_per_token:,} bytes a token in bf16: "
        f"1/{cache.mha_ratio:.1f} of multi-head attention"
    )


def _parameters(config: "K2Config", profile: str) -> "Table":
    """Return a table with one row for each block: all parameters, and those active for a token."""
    from rich.table import Table

    from engine.model.size import n_params

    table = Table(title=f"model of profile {profile}", title_justify="left")
    table.add_column("block")
    for column in ("total", "active a token"):
        table.add_column(column, justify="right")
    rows = n_params(config)
    for row in rows:
        table.add_row(row.block, f"{row.total:,}", f"{row.active:,}", style="bold" if row.block == "sum" else None)
    lookup = next(row.active for row in rows if row.block == "input embedding")
    table.add_row("sum without input embedding", "", f"{rows[-1].active - lookup:,}")
    return table


def _flops(config: "K2Config", lengths: list[int]) -> "Table":
    """Return a table with one row for each sequence length: FLOPs per token, in billions or millions."""
    from rich.table import Table

    from engine.model.flops import flops_per_token

    unit, name = (1e9, "G") if flops_per_token(config, 1).linear > 1e8 else (1e6, "M")
    table = Table(title=f"{name}FLOPs a token, averaged over a causal sequence", title_justify="left")
    for column in ("tokens", "weights", "attention", "attention / weights", "forward", "training"):
        table.add_column(column, justify="right")
    for length in lengths:
        f = flops_per_token(config, length)
        figures = [f"{value / unit:,.4g}" for value in (f.linear, f.attention, f.forward, f.training)]
        table.add_row(f"{length:,}", *figures[:2], f"{f.attention / f.linear:.1%}", *figures[2:])
    return table


if __name__ == "__main__":
    main()
