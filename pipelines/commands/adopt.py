"""`make import`: start the graph from a checkpoint in Hugging Face's layout, instead of training it here.

    python -m pipelines.commands.adopt --env laptop --source DIR [--as base_checkpoint]

The checkpoint becomes the output of the stage that would have made it, under that stage's present key: `dvc repro`
does not run that stage, and runs those that follow. A run record with outcome "adopted" says where it came from.
Editing the stage's parameters makes it stale, as ever, and the next `dvc repro` would train it anew.
"""

import argparse
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.artifacts.files import canonical_json, digest_bytes, digest_file, files_below
from engine.errors import UserError
from engine.identity import records
from engine.launch.lifetime import lock
from pipelines import code_files, graph
from pipelines.checkpoints import adoptable
from pipelines.errors import report_errors
from pipelines.restore import settle
from pipelines.stages_file import ROOT, load_stages_file
from pipelines.taken_in import record_without_run

if TYPE_CHECKING:
    from engine.model.config import K2Config

BASE, EXTENDED = "base_checkpoint", "extended_checkpoint"
NOTE = "adopted.json"


def main() -> None:
    """Adopt the checkpoint that the command line names."""
    with report_errors():
        parser = argparse.ArgumentParser(description="Start the graph from an existing checkpoint.")
        parser.add_argument("--env", default=None, help="profile")
        parser.add_argument(
            "--source", required=True, help="directory with config.json, tokenizer.json and safetensors"
        )
        parser.add_argument("--as", dest="dataset", default=adoptable()[0], help=f"one of {', '.join(adoptable())}")
        arguments = parser.parse_args()
        profile = load_stages_file().profile(arguments.env)
        if not arguments.source:
            raise UserError("no checkpoint is named: give SOURCE=… a directory with config.json and safetensors.")
        path = adopt(profile, Path(arguments.source), arguments.dataset)
        print(f"{arguments.dataset} of profile {profile} is now {arguments.source}; recorded in {path}")


def adopt(profile: str, source: Path, dataset: str) -> Path:
    """Make `source` the stage output `dataset` of a profile, and return the run record's path.

    Raises UserError, before anything changes, where the checkpoint is damaged, foreign, or of another tokenizer.
    """
    if dataset not in adoptable():
        raise UserError(f"{dataset} cannot be imported: choose AS={' or AS='.join(adoptable())}.")
    if not source.is_dir():
        raise UserError(f"{source} is no directory: give SOURCE=… a directory with config.json and safetensors.")
    stage = graph.producer(dataset)
    folder, work = graph.data_folder(profile), graph.work_folder(profile) / stage
    code_files.write_files(profile)
    with lock(work / "lock", f"stage {stage} of profile {profile}"):
        begun, clock = records.now(), time.monotonic()
        parts = code_files.key_parts(stage, profile)
        workspace = work / "import"
        shutil.rmtree(workspace, ignore_errors=True)
        try:
            origin = {"path": str(source.resolve()), "digest": _digest(source)}
            metrics = _fill(profile, stage, dataset, source, workspace, origin["digest"])
        finally:
            shutil.rmtree(workspace, ignore_errors=True)
        record = record_without_run(stage, profile, parts, records.ADOPTED, origin, metrics)
        clocks = {"started": begun, "finished": records.now(), "seconds": round(time.monotonic() - clock, 3)}
        path = records.write_record(folder / ".runs" / stage, {**record, **clocks})
    _tell_dvc(stage, profile)
    settle(profile, stage)
    return path


def _digest(source: Path) -> str:
    """Return one digest over all files of the source, which tells later whether it is still the same."""
    return digest_bytes(canonical_json({p.relative_to(source).as_posix(): digest_file(p) for p in files_below(source)}))


def _fill(
    profile: str, stage: str, dataset: str, source: Path, workspace: Path, digest: str
) -> dict[str, float | int | str]:
    """Import and publish the checkpoint, with a note as each other directory of the stage; return the metrics."""
    tokenizer = graph.dataset(profile, "tokenizer").load()
    from engine.model.checkpoint import load_config
    from engine.model.released import import_checkpoint
    from engine.model.tokenizer_of import check_own_tokenizer, check_tokenizer
    from engine.text.tokenizer import K2Tokenizer

    config, extra = load_config(source)
    tok = K2Tokenizer.load(tokenizer)
    check_own_tokenizer(source, tok)
    check_tokenizer(config.vocab_size, extra, tok, str(source))
    _check_scaling(config, dataset, source)
    # The origin's path is provenance, kept in the run record alone: the artifact depends on the content only.
    import_checkpoint(source, workspace / "checkpoint", _described(extra, config, stage, tok.digest))
    graph.dataset(profile, dataset).save(workspace / "checkpoint")
    metrics = _metrics(config, digest)
    for name in graph.stage_graph(stage).outputs:
        if name.endswith("_metrics"):
            graph.dataset(profile, name).save(metrics)
        elif name != dataset:
            (workspace / name).mkdir(parents=True)
            (workspace / name / NOTE).write_bytes(canonical_json({"adopted": digest}))
            graph.dataset(profile, name).save(workspace / name)
    return metrics


def _described(extra: dict[str, Any], config: "K2Config", stage: str, tokenizer: str) -> dict[str, Any]:
    """Return the adopted checkpoint's own fields for config.json: today's facts, and the source's other fields.

    A checkpoint of the same stage keeps its fields, so that export and import give the same artifact; those of another
    stage are put under `origin`. Without rope_scaling the trained length is the context; else the source states it.
    """
    context = config.max_position_embeddings
    trained = context if config.rope_scaling is None else extra.get("trained_length", context)
    facts = {"stage": stage, "tokenizer": tokenizer, "trained_length": trained}
    if extra.get("stage", stage) == stage:
        return {**extra, **facts}
    return {**facts, "origin": extra}


def _check_scaling(config: "K2Config", dataset: str, source: Path) -> None:
    if dataset == BASE and config.rope_scaling is not None:
        raise UserError(
            f"{source / 'config.json'} has rope_scaling, so its context was extended already: "
            f"import it with AS={EXTENDED}."
        )


def _metrics(config: "K2Config", digest: str) -> dict[str, float | int | str]:
    from engine.model.size import n_params

    total = n_params(config)[-1]
    return {
        "adopted": digest,
        "context": config.max_position_embeddings,
        "parameters": total.total,
        "parameters_active": total.active,
    }


def _tell_dvc(stage: str, profile: str) -> None:
    """Enter the outputs into DVC's ledger, as if the stage had made them from its present inputs."""
    target = f"{graph.ledger(profile)}:{stage}"
    commit = subprocess.run(["dvc", "commit", "-f", target], cwd=ROOT, capture_output=True, text=True, check=False)
    if commit.returncode:
        reason = (commit.stderr.strip() or "no reason given").splitlines()[-1]
        raise UserError(
            f"the checkpoint is in place, but DVC did not record it ({reason}): run `dvc commit -f {target}`."
        )


if __name__ == "__main__":
    main()
