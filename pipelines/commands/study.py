"""`make study NAME=…`: test a claim of the paper in a small controlled experiment, outside the default graph.

python -m pipelines.commands.study muon_vs_adamw
python -m pipelines.commands.study --all          # one after the other; killed at any time, the same command goes on
python -m pipelines.commands.study --list
python -m pipelines.commands.study NAME --pilot 9000 9001   # other seeds, a table on the screen, nothing kept in docs
"""

import argparse
import importlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from engine.artifacts.manifest import content_digest, read_manifest
from engine.errors import UserError
from engine.identity import snapshot
from engine.identity.fingerprint import fingerprint, stage_code
from engine.launch.lifetime import lock
from pipelines import graph
from pipelines.errors import report_errors
from pipelines.stages_file import CODE, ROOT, load_stages_file
from studies.registration import Registration, names, register
from studies.schema import PILOT_SEEDS

if TYPE_CHECKING:
    from studies.run import Done

REGISTRATIONS = ROOT / "conf" / "studies"
RESULTS = ROOT / "benchmarks" / "results" / "studies"
DOCS = ROOT / "docs" / "studies"
ENTRY = "studies.train"
"""The module whose reachable code decides a run's bits."""


def main() -> None:
    """Read the command line and act on it, from a snapshot of the code."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.commands.study", description="The paper's claims, tested small."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which studies to run")
    parser.add_argument("--all", action="store_true", help="all of them, one after the other")
    parser.add_argument("--list", action="store_true", help="name them with their verdicts")
    parser.add_argument("--report", action="store_true", help="judge what is kept and write the pages again")
    parser.add_argument("--env", default=None, help="profile whose tokenizer and shards are read (laptop)")
    parser.add_argument("--fresh", action="store_true", help="drop the named studies' finished runs first")
    parser.add_argument("--pilot", type=int, nargs="+", metavar="SEED", help="other seeds, nothing kept in docs")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    arguments = parser.parse_args()
    with report_errors():
        snapshot.enter(ROOT)  # the workers also import from there, whenever they start
    importlib.import_module("pipelines.commands.study").act(arguments)


def act(arguments: argparse.Namespace) -> None:
    """Run, list or report the studies that the command line names."""
    with report_errors():
        registrations = {name: register(REGISTRATIONS, name) for name in names(REGISTRATIONS)}
        chosen = list(registrations) if arguments.all else arguments.names
        for name in chosen:
            if name not in registrations:
                register(REGISTRATIONS, name)
        if arguments.list or arguments.report or not chosen:
            show(registrations, write=arguments.report)
            return
        profile = load_stages_file().profile(arguments.env)
        for name in chosen:
            if arguments.fresh:
                shutil.rmtree(work_folder(profile, name, bool(arguments.pilot)), ignore_errors=True)
            run(registrations, name, profile, arguments.pilot, arguments.workers)


def run(registrations: dict[str, Registration], name: str, profile: str, pilot: list[int] | None, workers: int) -> None:
    """Run one study and, unless it is a pilot, keep its results and judge the table again."""
    from studies.run import run_study

    if pilot and min(pilot) < PILOT_SEEDS:
        raise UserError(f"--pilot: seed {min(pilot)} may be a study's own; take seeds from {PILOT_SEEDS} on.")
    shards, data = inputs(profile)
    work = work_folder(profile, name, bool(pilot))
    with lock(work / ".lock", f"study {name} of profile {profile}"):
        outcome = run_study(registrations[name], shards, work, (code(), data), pilot, workers)
        if pilot:
            show_pilot(registrations[name], outcome)
            return
        keep(registrations, name, outcome, data)


def work_folder(profile: str, name: str, pilot: bool) -> Path:
    """Return the folder in which a study's units train and keep results; pilots have one of their own."""
    return graph.data_folder(profile) / "studies" / ("pilots" if pilot else "runs") / name


def inputs(profile: str) -> tuple[Path, str]:
    """Return the profile's shards and their content digest, verified against its tokenizer.

    Raises UserError where one is missing or they do not belong together.
    """
    from engine.text.shards import TokenShards
    from engine.text.tokenizer import K2Tokenizer

    for dataset in ("tokenizer", "shards"):
        try:
            read_manifest(graph.dataset_path(profile, dataset), stage="tokenization", dataset=dataset)
        except UserError as error:
            raise UserError(f"a study reads the outputs of tokenization. {error}") from error
    shards = graph.dataset_path(profile, "shards")
    TokenShards.open(shards, K2Tokenizer.load(graph.dataset_path(profile, "tokenizer")))
    return shards, str(content_digest(shards))


def code() -> str:
    """Return a fingerprint of all that a run's bits depend on: reachable code, torch, processor, threads."""
    from engine.training.numerics import fingerprint as numerics

    with graph.library() as library:
        reached = stage_code(library, [ENTRY], {}).as_dict()
    return fingerprint({**reached, "numerics": {name: str(value) for name, value in numerics(1, "float32").items()}})


def keep(registrations: dict[str, Registration], name: str, outcome: "Done", data: str) -> None:
    """Write a study's results, and all pages of the table again."""
    from engine.origin import machine
    from studies.report.write import publish
    from studies.store import write_results

    code_origin = snapshot.origin(CODE)
    commit = f"{code_origin['commit'] or 'unknown'}{'-dirty' if code_origin['dirty'] else ''}"
    origin = {"commit": commit, "machine": machine(), "data": data, "baselines": outcome.baselines}
    write_results(RESULTS, registrations[name], outcome.runs, outcome.sweeps, origin)
    page = publish(registrations, RESULTS, DOCS, name)[name]
    print(f"{name}: {page.verdict} ({page.reason})" + (f"; exploratory: {page.explores}" if page.explores else ""))
    print(f"report: {(DOCS / f'{name}.md').relative_to(ROOT)}")


def show(registrations: dict[str, Registration], write: bool) -> None:
    """Print the table of all studies with their verdicts; with `write`, also write their pages again."""
    from rich.console import Console
    from rich.table import Table

    from studies.report.content import pages
    from studies.report.write import publish
    from studies.store import read_results

    if write:
        publish(registrations, RESULTS, DOCS, None)
    stored = {name: results for name in registrations if (results := read_results(RESULTS, name)) is not None}
    judged = pages(registrations, stored)
    table = Table("study", "verdict", "p", "claim", title="studies: make study NAME=…", title_justify="left")
    for name, registration in registrations.items():
        page = judged.get(name)
        verdict = "not run yet" if page is None else page.verdict + (" (exploratory)" if page.explores else "")
        p = f"{page.p:.2g}" if page is not None and page.judged.sampled else ""
        table.add_row(name, verdict, p, registration.study.claim)
    Console().print(table)


def show_pilot(registration: Registration, outcome: "Done") -> None:
    """Print a pilot's runs as a table."""
    from rich.console import Console
    from rich.table import Table

    columns = ("loss", "peak_max_logit", "final_max_logit", *(f"clip_rate_q{i}" for i in (1, 2, 3, 4)), "clip_norm")
    table = Table(
        "arm", "budget", "seed", *columns, "CPU s", title=f"pilot of {registration.name}", title_justify="left"
    )
    for run in outcome.runs:
        figures = run["figures"]
        cells = [f"{figures[name]:.4g}" for name in columns] if figures else [str(run["failed"])]
        table.add_row(run["arm"], run["budget"], str(run["seed"]), *cells, f"{figures.get('cpu_seconds', 0):.0f}")
    Console().print(table)
    for name, sweep in outcome.sweeps.items():
        print(name, sweep["winner"], "inside" if sweep["inside"] else "at the edge", sweep["points"])


if __name__ == "__main__":
    main()
