"""`make scale`: count the bytes, the seconds and the cost of a profile's pre-training, before any GPU is asked for.

    python -m pipelines.commands.scale --env k2 [--gpus 256] [--gpu h800] [--layout "vpp: 1"] [--tokens 15.5e12]
        [--weights bfloat16] [--picture scale.png]

What the figures assume, and how they compare with published ones, is in docs/scale.md.
"""

import argparse
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.checked import checked
from engine.errors import UserError
from engine.launch.compute import ComputeClass, compute_class
from engine.parallel.layout import Grid, Layout, check_layout, check_schedule
from engine.scale.fit import refuse_what_does_not_fit
from engine.scale.machines import gpu, machines
from engine.scale.memory import memory
from engine.scale.states import precision
from engine.scale.step import Step, rates, step
from engine.scale.training import Training
from engine.yaml_file import parse_yaml
from pipelines import graph
from pipelines.configuration import check_configuration
from pipelines.errors import report_errors
from pipelines.output import screen
from pipelines.stages_file import load_stages_file

if TYPE_CHECKING:
    from rich.console import Console


def main() -> None:
    """Print the plan of the profile that the command line names; refuse it if it does not fit."""
    parser = argparse.ArgumentParser(description="What a training would need.")
    parser.add_argument("--env", default=None, help="profile")
    parser.add_argument("--gpus", type=int, default=None, help="number of GPUs, by default compute.yml's")
    parser.add_argument("--gpu", default=None, help="kind of GPU, by default compute.yml's gres_type")
    parser.add_argument("--layout", default="", help="fields of the layout that replace compute.yml's, as YAML")
    parser.add_argument("--tokens", type=float, default=None, help="tokens to train on, by default the profile's")
    parser.add_argument("--picture", type=Path, default=None, help="file for a plot of the step, as PNG")
    parser.add_argument("--weights", default="bfloat16", choices=["bfloat16", "float32"], help="type of the weights")
    arguments = parser.parse_args()
    with report_errors():
        if arguments.tokens is not None and not 0 < arguments.tokens < math.inf:
            raise UserError(f"TOKENS is {arguments.tokens:g}: give the number of tokens to train on, such as 15.5e12.")
        profile = load_stages_file().profile(arguments.env)
        training, tokens = planned(profile, arguments.gpus, arguments.gpu, arguments.layout, arguments.weights)
        console = screen()
        fast = show(profile, training, arguments.tokens or tokens, console)
        if arguments.picture:
            from engine.scale import picture

            picture.save(training, fast, arguments.picture)
            console.print(f"picture of the fast end: {arguments.picture}", soft_wrap=True)
        refuse_what_does_not_fit(training, memory(training), f"conf/{profile}/compute.yml: class train, field layout")


def planned(
    profile: str, gpus: int | None, kind: str | None, layout: str, weights: str = "bfloat16"
) -> tuple[Training, float]:
    """Return a profile's pre-training on so many GPUs of a kind, and the tokens that it trains on.

    `weights` of a stage in bfloat16 are stored in "bfloat16", with fp32 masters, as K2's, or in "float32", as this
    trainer's are.

    Raises:
        UserError: the layout does not divide the GPUs or the model, the batch does not divide, or the kind is unknown.

    """
    from engine.model.parameters import config_from_parameters

    where = compute_class(check_configuration(profile), "train")
    parameters = graph.parameters(profile)
    own = parameters["pretrain"]
    length = own["sequence_length"]
    config = config_from_parameters(own["model"], parameters["tokenization"]["vocab_size"], length)
    field = f"conf/{profile}/compute.yml: class train, field layout"
    chosen, ranks = _layout(where.layout, layout), where.ranks if gpus is None else gpus
    if ranks < 1:
        raise UserError(f"GPUS is {ranks}: give the number of GPUs, 1 or more.")
    check_layout(chosen, ranks, config.num_hidden_layers, config.n_routed_experts, field)
    grid = Grid.of(chosen, ranks)
    micro, rows = _micro_batches(own, grid, profile)
    check_schedule(chosen, micro, field, f"micro_batches of conf/{profile}/parameters/pretrain.yml")
    training = Training(
        config,
        chosen,
        grid,
        precision(own["dtype"], weights),
        gpu(*_kind(where, kind, profile)),
        length,
        rows,
        micro,
    )
    steps = sum(phase["length"] for phase in own["schedule"]["phases"])
    return training, float(steps * training.step_tokens)


def _layout(written: Layout, changes: str) -> Layout:
    """Return the layout that compute.yml states, with the fields that the command line changes."""
    if not changes:
        return written
    given = parse_yaml(f"{{{changes}}}", "LAYOUT")
    return checked(ComputeClass, {"launcher": "local", "layout": asdict(written) | given}, "LAYOUT").layout


def _kind(where: ComputeClass, kind: str | None, profile: str) -> tuple[str, str]:
    """Return the kind of GPU, and the words by which an error names it."""
    if kind is not None:
        return kind, "GPU"
    field = f"conf/{profile}/compute.yml: class train, field gres_type"
    if where.gres_type is None:
        raise UserError(
            f"{field} names no kind of GPU, so there is nothing to count with: say GPU={'|'.join(machines().gpus)}."
        )
    return where.gres_type, field


def _micro_batches(own: dict[str, Any], grid: Grid, profile: str) -> tuple[int, int]:
    """Return the micro-batches of a replica in a step, and the rows of each."""
    replicas, batch = grid.dp * grid.ep, own["batch_size"]
    each = -(-own["micro_batches"] // replicas)
    if batch % (each * replicas):
        raise UserError(
            f"conf/{profile}/parameters/pretrain.yml: batch_size {batch} does not split into {each * replicas} "
            f"micro-batches, {each} for each of {replicas} replicas: change batch_size or micro_batches, or GPUS."
        )
    return each, batch // (each * replicas)


def show(profile: str, training: Training, tokens: float, console: "Console") -> Step:
    """Print all tables of a training and its schedule; return a step at the fast end."""
    from engine.scale import picture, report

    console.print(report.heading(profile, training))
    ends = [step(training, at) for at in rates(training.gpu)]
    for table in report.tables(training, ends, tokens):
        console.print(table)
    if training.grid.pp > 1:
        console.print(f"beginning and end of a step: {picture.LEGEND}")
        for line in picture.text(ends[0], console.width):
            console.print(line)
    return ends[0]


if __name__ == "__main__":
    main()
