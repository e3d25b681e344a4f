"""The project's own `kedro run`: stage by stage, on the profile's machines, with readable errors.

It runs from a snapshot of the code: the modules that this process has imported so far are imported again from there.
"""

import copy
import importlib
import os
import re
from pathlib import Path
from typing import Any

import click
from kedro.framework.cli.project import run as kedro_run
from kedro.framework.project import configure_project
from kedro.framework.project import pipelines as registered
from kedro.utils import load_obj

from engine.errors import UserError
from engine.identity import snapshot
from engine.launch.lifetime import die_with_parent
from pipelines.configuration import check_configuration
from pipelines.errors import report_errors
from pipelines.hooks import DETACH, DRY_RUN, FORCED, FRESH
from pipelines.stages_file import CODE, ROOT, load_stages_file

RUNNER = "pipelines.runner.StageRunner"
PARENT = "K2_PARENT"
"""The variable in which a stage's command in dvc.yaml names DVC's process; a shell's runs lack it and outlive it."""

EVERYTHING = "__default__"
"""Kedro's name for all pipelines together."""

OWN = {"fresh": FRESH, "detach": DETACH, "dry_run": DRY_RUN}
"""This project's own options, each a flag, with the variable from which the runner reads it."""

FORCE = re.compile(r"--force(-downstream)?|-[hqvfispPRk]*f.*")
"""The force option of `dvc repro` and `dvc exp run`, alone or after other one-letter options that take no value."""


@click.group(name="k2-pipeline")
def cli() -> None:
    """The project's own commands; `run` takes the place of Kedro's."""


def _run(**options: Any) -> Any:
    if "DVC_STAGE" in os.environ:
        dvc = int(os.environ.pop(PARENT, "") or os.getppid())  # without PPID in the shell: the parent
        die_with_parent(dvc)
        os.environ[FORCED] = "1" if is_forced(dvc) else ""
    with report_errors():
        snapshot.enter(ROOT)
    configure_project(__package__)
    return importlib.import_module(__name__).run_here(**options)


def is_forced(dvc: int) -> bool:
    """Return whether the DVC with this process id was started with `--force`.

    DVC 3.67.1 does not pass that on to a stage, so its own command line is read.
    """
    try:
        arguments = Path(f"/proc/{dvc}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    return any(FORCE.fullmatch(argument) for argument in arguments)


def run_here(**options: Any) -> Any:
    """Run the stages that the options name, from the copy of the code that holds this module."""
    for option, variable in OWN.items():
        os.environ[variable] = "1" if options.pop(option, False) else ""
    with report_errors():
        stages_file = load_stages_file()
        options["conf_source"] = options.get("conf_source") or str(CODE / "conf")
        options["env"] = stages_file.profile(options["env"] or os.environ.get("KEDRO_ENV"))
        check_configuration(options["env"])  # before Kedro reads it: Kedro's errors name no file
        for name in _chosen(options):
            if name != EVERYTHING:
                stages_file.stage(name)
        check_selection(options)
    with report_errors(options["env"]):
        return kedro_run.callback(**options)  # type: ignore[misc]


def _chosen(options: dict[str, Any]) -> list[str]:
    """Return the names of the chosen pipelines; Kedro still accepts its older option for a single one."""
    return [options["pipeline"]] if options["pipeline"] else list(options["pipelines"]) or [EVERYTHING]


def check_selection(options: dict[str, Any]) -> None:
    """Refuse unknown names of nodes, tags, datasets and runners, for which Kedro would print a traceback.

    Raises:
        UserError: a name is unknown; the message lists the known ones.

    """
    chosen = [registered[name] for name in _chosen(options)]
    try:
        sum(chosen[1:], chosen[0]).filter(
            tags=options["tags"],
            from_nodes=options["from_nodes"],
            to_nodes=options["to_nodes"],
            node_names=options["node_names"],
            from_inputs=options["from_inputs"],
            to_outputs=options["to_outputs"],
            node_namespaces=options["namespaces"],
        )
    except ValueError as error:
        nodes = [node for pipeline in chosen for node in pipeline.nodes]
        names = ", ".join(node.name for node in nodes)
        tags = ", ".join(dict.fromkeys(tag for node in nodes for tag in sorted(node.tags)))
        sentence = str(error).split(". ")[0].rstrip(".")
        raise UserError(f"kedro run: {sentence}; there are the nodes {names} and the tags {tags}.") from error
    try:
        load_obj(options["runner"], "kedro.runner")
    except (ImportError, AttributeError) as error:
        raise UserError(f"kedro run --runner {options['runner']}: {error}; leave it out to use ours.") from error


def _own_run() -> click.Command:
    """Return Kedro's `run` with our runner as the default, our own options added, and one-sentence errors."""
    command = copy.copy(kedro_run)
    command.callback = _run
    command.params = [copy.copy(parameter) for parameter in kedro_run.params]
    for parameter in command.params:
        if parameter.name == "runner":
            parameter.default = RUNNER
    command.params += [
        click.Option(["--fresh"], is_flag=True, help="Drop the stage's unfinished work, cancel its job, start over."),
        click.Option(["--detach"], is_flag=True, help="Submit the Slurm job and end; the same command attaches again."),
        click.Option(["--dry-run"], is_flag=True, help="Print the Slurm jobs' scripts; write and submit nothing."),
    ]
    return command


cli.add_command(_own_run(), "run")
