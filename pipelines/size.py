"""`make size`: parameters by block of a profile's model, counted on the meta device.

python -m pipelines.size --env k2
"""

import argparse

from pipelines import graph
from pipelines.errors import report_errors
from pipelines.manifest import load_manifest


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Parameters by block.")
    parser.add_argument("--env", default=None, help="profile")
    with report_errors():
        profile = load_manifest().profile(parser.parse_args().env)
        print_size(profile)


def print_size(profile: str) -> None:
    """One row a block: all parameters, and those active for a token."""
    from rich.console import Console
    from rich.table import Table

    from engine.model.size import config_from_parameters, n_params

    given = graph.parameters(profile)
    config = config_from_parameters(
        given["pretrain"]["model"], given["tokenization"]["vocab_size"], given["pretrain"]["sequence_length"]
    )
    table = Table(title=f"model of profile {profile}", title_justify="left")
    table.add_column("block")
    for column in ("total", "active a token"):
        table.add_column(column, justify="right")
    for row in n_params(config):
        table.add_row(row.block, f"{row.total:,}", f"{row.active:,}", style="bold" if row.block == "sum" else None)
    Console().print(table)


if __name__ == "__main__":
    main()
