"""`make adopt-work STAGE=pretrain KEY=…`: go on from another key's last checkpoint under today's key.

This is the honest way to change a learning rate half way: the rows of the history up to that step come along, and the
other key's work stays as it is. The run record has the `origin` (key, step, what differed) and a `warning`, which
`make plan` and `make why` show, since a run from scratch under the same key would end in other weights. Where such a
result comes back by its key later (pipelines/recall.py) it brings both along.

    python -m pipelines.commands.adopt_work --env laptop --stage pretrain --key 0123456789abcdef
"""

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.artifacts.files import fsync_directory, object_if_sound, write_atomic
from engine.errors import UserError
from engine.identity.difference import differences
from engine.identity.key import stage_key
from engine.identity.records import BEGUN, good_records
from engine.launch.lifetime import lock
from engine.remedy import command, move_aside
from engine.training.journal import HISTORY, left_by_training
from engine.training.position import CHECKPOINTS, position
from engine.training.sealed import META, Damaged, Saved, checkpoints, digests_in, read, seal, verify
from pipelines import code_files, graph
from pipelines.dispatch import refuse_beside
from pipelines.errors import report_errors
from pipelines.parameters import stage_parameters
from pipelines.stages_file import load_stages_file

if TYPE_CHECKING:
    from engine.model.config import K2Config


def main() -> None:
    """Adopt the work that the command line names."""
    parser = argparse.ArgumentParser(description="Go on from another key's last checkpoint under today's key.")
    parser.add_argument("--env", default=None, help="profile")
    parser.add_argument("--stage", required=True, help="a stage of kedro.yml")
    parser.add_argument("--key", required=True, help="of unfinished work, or its first digits; `make work` lists them")
    arguments = parser.parse_args()
    with report_errors():
        profile, stage = load_stages_file().profile(arguments.env), load_stages_file().stage_name(arguments.stage)
        print(adopt_work(profile, stage, arguments.key))


def adopt_work(profile: str, stage: str, key: str) -> str:
    """Copy the last whole checkpoint of a stage's work under `key` into the work of today's key, which resumes from it.

    Returns:
        A sentence on what was done and what to type next.

    Raises:
        UserError: there is no such work, it has no checkpoint, or one of another model or optimizer; today's key has
            work or a result of its own; a process is at work. Nothing is changed then.

    """
    code_files.write_files(profile)
    place = graph.work_folder(profile) / stage
    with lock(place / "lock", f"stage {stage} of profile {profile}"):
        source = _named(profile, stage, key)
        parts = code_files.key_parts(stage, profile)
        workspace = place / stage_key(**parts)
        repro = command("repro", profile, STAGE=stage)
        _refuse_what_is_there(profile, stage, source, workspace, repro)
        folder, saved = _last_checkpoint(source)
        settings = stage_parameters(stage, graph.parameters(profile)[stage], profile)
        _check_steps(stage, settings, saved.step)
        _check_shapes(profile, stage, settings, folder)
        start = object_if_sound(source / BEGUN, move_aside(source / BEGUN))
        changes = (
            [str(change) for change in differences(start["parts"], parts)] if start else ["its key's parts are unknown"]
        )
        event = {"step": saved.step, "adopted": source.name, "differs": changes}
        _copy(folder, saved, source, workspace, event)
    return (
        f"stage {stage} goes on under key {workspace.name} from step {saved.step} of key {source.name} "
        f"({', '.join(changes[:3])}{f' and {len(changes) - 3} more' if len(changes) > 3 else ''}), whose work stays: "
        f"`{repro}` runs the rest, and its record says so."
    )


def _named(profile: str, stage: str, key: str) -> Path:
    """Return the only workspace of the stage whose key begins with `key`."""
    matching = [path for path in graph.work_folders(profile, stage) if path.name.startswith(key)]
    listed = f"`{command('work', profile)}` lists all unfinished work"
    if not matching or not key:
        raise UserError(f"stage {stage} has no unfinished work under a key {key}: {listed}.")
    if len(matching) > 1:
        raise UserError(
            f"stage {stage} has unfinished work under {len(matching)} keys that begin with {key}: {listed}."
        )
    return matching[0]


def _refuse_what_is_there(profile: str, stage: str, source: Path, workspace: Path, repro: str) -> None:
    """Refuse if work of today's key would be lost or hidden, or if a process works under either key."""
    if source == workspace:
        raise UserError(f"{source.name} is today's key already: `{repro}` goes on with its work.")
    if reached := position(workspace):
        raise UserError(
            f"stage {stage} has work of its own under today's key, at {reached}: `{repro}` goes on with it; to adopt "
            f"other work in its place remove {workspace} first."
        )
    if any(run["key"] == workspace.name for run in good_records(graph.runs_folder(profile, stage))):
        raise UserError(
            f"stage {stage} was made under today's key {workspace.name} before: `{repro}` brings that back."
        )
    for folder in (source, workspace):
        refuse_beside(folder, stage)


def _last_checkpoint(source: Path) -> tuple[Path, Saved]:
    """Return the newest undamaged checkpoint of a workspace, with its directory."""
    folder = left_by_training(source, CHECKPOINTS)
    for directory in reversed(checkpoints(folder) if folder else []):
        try:
            verify(directory)
            return directory, read(directory, directory.parent.parent / HISTORY)
        except Damaged as error:
            print(f"warning: {error}; looking for an older checkpoint")
    raise UserError(f"{source} holds no whole checkpoint, so there is nothing to go on from.")


def _check_shapes(profile: str, stage: str, settings: Any, folder: Path) -> None:
    """Refuse a checkpoint that does not fit today's model and optimizer, which are built here without data."""
    import torch

    from engine.model.model import K2Model
    from engine.training.language import make_optimizer
    from engine.training.rank_file import shapes
    from engine.training.state import TrainState

    with torch.device("meta"):
        model = K2Model(_model_of_today(profile, stage, settings), seed=None)
        # of either backend a checkpoint has the same names and shapes, and ours needs no ranks
        optimizer = make_optimizer(model, 0.0, settings.optimizer.model_copy(update={"backend": "ours"}))
    # one number each, seen in the shape of the tensor: its values do not matter here
    tensors = {name: torch.zeros((), dtype=dtype).expand(shape) for name, (shape, dtype) in shapes(folder).items()}
    TrainState(model, optimizer).fit(tensors, str(folder))


def _model_of_today(profile: str, stage: str, settings: Any) -> "K2Config":
    """Return the configuration of the stage's model: that of its first checkpoint, else the one of its parameters."""
    from engine.model.checkpoint import load_config
    from engine.text.tokenizer import K2Tokenizer
    from nodes.pretrain.train import configuration

    begins_with = [name for name in graph.stage_graph(stage).inputs if name.endswith("_checkpoint")]
    if begins_with:
        return load_config(graph.dataset(profile, begins_with[0]).load())[0]
    return configuration(settings, K2Tokenizer.load(graph.dataset(profile, "tokenizer").load()).vocab_size)


def _check_steps(stage: str, settings: Any, step: int) -> None:
    """Refuse a step from which today's parameters cannot go on."""
    steps = settings.steps if hasattr(settings, "steps") else settings.schedule.total
    every = getattr(settings, "inner_steps", 1)
    if step > steps:
        raise UserError(f"the work is at step {step}, but stage {stage} trains {steps} steps today: none is left.")
    if step % every:
        raise UserError(
            f"the work is at step {step}, but stage {stage} samples every {every} steps today and can go on only there."
        )


def _copy(folder: Path, saved: Saved, source: Path, workspace: Path, event: dict[str, Any]) -> None:
    """Copy the training's files under today's key; the checkpoint comes last, since it makes the work resumable."""
    training = folder.parent.parent
    target = workspace / training.relative_to(source)
    target.mkdir(parents=True, exist_ok=True)
    if training != source:  # a folder of the training's own, which may hold more to resume from
        for path in training.iterdir():
            if path.is_dir() and path.name != CHECKPOINTS:
                shutil.copytree(path, target / path.name, dirs_exist_ok=True)
    write_atomic(target / HISTORY, (training / HISTORY).read_bytes()[: saved.history_bytes])
    partial = target / CHECKPOINTS / f".{folder.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    digests = digests_in(folder)
    for name in digests.keys() - {META}:
        _link(folder / name, partial / name)
    meta = json.loads((folder / META).read_bytes())
    seal(partial, {**meta, "past": [*saved.past, event]}, digests)
    partial.rename(partial.with_name(folder.name))
    fsync_directory(partial.parent)


def _link(path: Path, target: Path) -> None:
    """Link or copy a file to `target`; a link is safe, since no checkpoint is ever written to again."""
    try:
        os.link(path, target)
    except OSError:  # a file system without links
        shutil.copyfile(path, target)
        with target.open("rb") as file:
            os.fsync(file.fileno())


if __name__ == "__main__":
    main()
