"""`make study NAME=…`: a claim of the paper as a small controlled experiment, outside the default graph.

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
"""What decides a run's bits is what this module can reach."""


def main() -> None:
    """The command."""
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
    asked = parser.parse_args()
    with report_errors():
        snapshot.enter(ROOT)  # its workers import from there too, whenever they start
    importlib.import_module("pipelines.commands.study").act(asked)


def act(asked: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    with report_errors():
        registrations = {name: register(REGISTRATIONS, name) for name in names(REGISTRATIONS)}
        wanted = list(registrations) if asked.all else asked.names
        for name in wanted:
            if name not in registrations:
                register(REGISTRATIONS, name)
        if asked.list or asked.report or not wanted:
            show(registrations, write=asked.report)
            return
        profile = load_stages_file().profile(asked.env)
        for name in wanted:
            if asked.fresh:
                shutil.rmtree(work_folder(profile, name, bool(asked.pilot)), ignore_errors=True)
            run(registrations, name, profile, asked.pilot, asked.workers)


def run(registrations: dict[str, Registration], name: str, profile: str, pilot: list[int] | None, workers: int) -> None:
    """Run one study and, unless it is a pilot, keep its results and judge the table again."""
    from studies.run import run_study

    if pilot and min(pilot) < PILOT_SEEDS:
        raise UserError(f"--pilot: seed {min(pilot)} may be a study's own; take seeds from {PILOT_SEEDS} on.")
    shards, data = inputs(profile)
    work = work_folder(profile, name, bool(pilot))
    with lock(work / ".lock", f"study {name} of profile {profile}"):
        done = run_study(registrations[name], shards, work, (code(), data), pilot, workers)
        if pilot:
            show_pilot(registrations[name], done)
            return
        keep(registrations, name, done, data)


def work_folder(profile: str, name: str, pilot: bool) -> Path:
    """Where a study's units train and their results lie; a pilot's apart."""
    return graph.data_folder(profile) / "studies" / ("pilots" if pilot else "runs") / name


def inputs(profile: str) -> tuple[Path, str]:
    """The profile's shards and their content digest, verified against its tokenizer.

    Raises UserError where one is missing or they do not belong together.
    """
    from engine.text.shards import TokenShards
    from engine.text.tokenizer import K2Tokenizer

    for dataset in ("tokenizer", "shards"):
        try:
            read_manifest(graph.dataset_path(profile, dataset), stage="tokenization", dataset=dataset)
        except UserError as error:
            raise UserError(f"a study reads what tokenization makes. {error}") from error
    shards = graph.dataset_path(profile, "shards")
    TokenShards.open(shards, K2Tokenizer.load(graph.dataset_path(profile, "tokenizer")))
    return shards, str(content_digest(shards))


def code() -> str:
    """The fingerprint of the code a run can reach, and of what its bits hang on beside: torch, processor, threads."""
    from engine.training.numerics import fingerprint as numerics

    with graph.library() as library:
        reached = stage_code(library, [ENTRY], {}).as_dict()
    return fingerprint({**reached, "numerics": {name: str(value) for name, value in numerics(1, "float32").items()}})


def keep(registrations: dict[str, Registration], name: str, done: "Done", data: str) -> None:
    """Write the results, and the whole table's pages."""
    from engine.origin import machine
    from studies.report.write import publish
    from studies.store import write_results

    ran = snapshot.origin(CODE)
    commit = f"{ran['commit'] or 'unknown'}{'-dirty' if ran['dirty'] else ''}"
    origin = {"commit": commit, "machine": machine(), "data": data, "baselines": done.baselines}
    write_results(RESULTS, registrations[name], done.runs, done.sweeps, origin)
    page = publish(registrations, RESULTS, DOCS, name)[name]
    print(f"{name}: {page.verdict} ({page.reason})" + (f"; exploratory: {page.explores}" if page.explores else ""))
    print(f"report: {(DOCS / f'{name}.md').relative_to(ROOT)}")


def show(registrations: dict[str, Registration], write: bool) -> None:
    """The table of all studies with their verdicts; with `write` their pages are written again too."""
    from rich.console import Console
    from rich.table import Table

    from studies.report.content import pages
    from studies.report.write import publish
    from studies.store import read_results

    if write:
        publish(registrations, RESULTS, DOCS, None)
    kept = {name: found for name in registrations if (found := read_results(RESULTS, name)) is not None}
    judged = pages(registrations, kept)
    table = Table("study", "verdict", "p", "claim", title="studies: make study NAME=…", title_justify="left")
    for name, registration in registrations.items():
        page = judged.get(name)
        verdict = "not run yet" if page is None else page.verdict + (" (exploratory)" if page.explores else "")
        p = f"{page.p:.2g}" if page is not None and page.judged.sampled else ""
        table.add_row(name, verdict, p, registration.study.claim)
    Console().print(table)


def show_pilot(registration: Registration, done: "Done") -> None:
    """A pilot's runs on the screen."""
    from rich.console import Console
    from rich.table import Table

    shown = ("loss", "peak_max_logit", "final_max_logit", *(f"clip_rate_q{i}" for i in (1, 2, 3, 4)), "clip_norm")
    table = Table("arm", "budget", "seed", *shown, "CPU s", title=f"pilot of {registration.name}", title_justify="left")
    for run in done.runs:
        figures = run["figures"]
        cells = [f"{figures[name]:.4g}" for name in shown] if figures else [str(run["failed"])]
        table.add_row(run["arm"], run["budget"], str(run["seed"]), *cells, f"{figures.get('cpu_seconds', 0):.0f}")
    Console().print(table)
    for name, sweep in done.sweeps.items():
        print(name, sweep["winner"], "inside" if sweep["inside"] else "at the edge", sweep["points"])


if __name__ == "__main__":
    main()
