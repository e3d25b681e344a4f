"""`make import`: start the graph from a checkpoint in Hugging Face's layout, instead of training it here.

    python -m pipelines.commands.adopt --env laptop --source DIR [--as base_checkpoint]

The checkpoint becomes the output of the stage that would have made it, under that stage's key of today: `dvc repro`
does not run that stage, and runs what follows. A run record with outcome "adopted" says where it came from. Editing
the stage's parameters makes it stale, as ever, and the next `dvc repro` would train it anew.
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
from engine.identity.key import flatten, stage_key
from engine.launch.lifetime import lock
from pipelines import code_files, graph
from pipelines.checkpoints import adoptable
from pipelines.errors import report_errors
from pipelines.stages_file import CODE, ROOT, load_stages_file

if TYPE_CHECKING:
    from engine.model.config import K2Config

BASE, EXTENDED = "base_checkpoint", "extended_checkpoint"
NOTE = "adopted.json"


def main() -> None:
    """Adopt what the command line names."""
    with report_errors():
        parser = argparse.ArgumentParser(description="Start the graph from an existing checkpoint.")
        parser.add_argument("--env", default=None, help="profile")
        parser.add_argument(
            "--source", required=True, help="directory with config.json, tokenizer.json and safetensors"
        )
        parser.add_argument("--as", dest="dataset", default=adoptable()[0], help=f"one of {', '.join(adoptable())}")
        asked = parser.parse_args()
        profile = load_stages_file().profile(asked.env)
        if not asked.source:
            raise UserError("no checkpoint is named: give SOURCE=… a directory with config.json and safetensors.")
        path = adopt(profile, Path(asked.source), asked.dataset)
        print(f"{asked.dataset} of profile {profile} is now {asked.source}; recorded in {path}")


def adopt(profile: str, source: Path, dataset: str) -> Path:
    """Make `source` the stage output `dataset` of a profile; the run record's path.

    Raises UserError where the checkpoint is damaged, foreign, or of another tokenizer; nothing is changed then.
    """
    if dataset not in adoptable():
        raise UserError(f"{dataset} cannot be imported: choose AS={' or AS='.join(adoptable())}.")
    if not source.is_dir():
        raise UserError(f"{source} is no directory: give SOURCE=… one with config.json and safetensors.")
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
        record = _record(stage, profile, parts, origin, metrics)
        clocks = {"started": begun, "finished": records.now(), "seconds": round(time.monotonic() - clock, 3)}
        path = records.write_record(folder / ".runs" / stage, {**record, **clocks})
    _tell_dvc(stage, profile)
    return path


def _digest(source: Path) -> str:
    """One digest over all files of the source, to tell later whether it is still the same."""
    return digest_bytes(canonical_json({p.relative_to(source).as_posix(): digest_file(p) for p in files_below(source)}))


def _fill(
    profile: str, stage: str, dataset: str, source: Path, workspace: Path, digest: str
) -> dict[str, float | int | str]:
    """Bring the checkpoint in, publish it, and a note in place of the stage's other directories; its metrics."""
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
    # The origin's path is provenance and stands in the run record alone: the artifact is what the content makes it.
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
    """What the adopted checkpoint's config.json says of itself: the facts of today, and what the source said besides.

    A checkpoint of the same stage keeps its words, so that export and import give the same artifact; those of another
    stage stand under `origin`. Without rope_scaling the trained length is the context; with it only the source knows.
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


def _record(
    stage: str, profile: str, parts: dict[str, Any], origin: dict[str, str], metrics: dict[str, Any]
) -> dict[str, Any]:
    """A run record as the runner writes it, but for its outcome and origin."""
    return {
        "stage": stage,
        "profile": profile,
        "key": stage_key(**parts),
        "parts": {**parts, "parameters": flatten(parts["parameters"])},
        "outputs": {name: graph.digest_of(profile, name) for name in graph.stage_graph(stage).outputs},
        "outcome": records.ADOPTED,
        "origin": origin,
        "error": None,
        "attempt": 1,
        "node_seconds": {},
        "metrics": metrics,
        "jobs": {},
        **records.provenance(CODE),
    }


def _tell_dvc(stage: str, profile: str) -> None:
    """Enter the outputs into DVC's ledger as what the stage would have made of its inputs of now."""
    target = f"{graph.ledger(profile)}:{stage}"
    done = subprocess.run(["dvc", "commit", "-f", target], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise UserError(f"the checkpoint is in place, but DVC did not take it ({why}): run `dvc commit -f {target}`.")


if __name__ == "__main__":
    main()
