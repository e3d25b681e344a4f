"""`make export`: a directory that appears whole or not at all, and refusals that leave nothing behind."""

from pathlib import Path

import pytest
from kedro.io.core import DatasetError

from engine.artifacts.manifest import seal
from engine.errors import UserError
from engine.model.checkpoint import save_checkpoint
from engine.model.model import K2Model
from engine.model.tensorfile import INDEX, TensorFiles
from pipelines import graph
from pipelines.commands.export import export, shard_bytes
from tests.engine.tiny import config
from tests.nodes import toy

PROFILE = "smoke"


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with a tokenizer and a base checkpoint; the checkpoint's directory."""
    entries = graph.catalog_entries(PROFILE)
    monkeypatch.setattr(graph, "dataset_path", lambda profile, name: tmp_path / str(entries[name]["filepath"]))
    tokenizer, checkpoint = (graph.dataset_path(PROFILE, name) for name in ("tokenizer", "base_checkpoint"))
    toy.tokenizer(tokenizer)
    save_checkpoint(checkpoint, K2Model(config(vocab_size=toy.VOCABULARY)), {})
    for path in (tokenizer, checkpoint):
        seal(path, stage=graph.producer(path.name), dataset=path.name, counts={})
    return checkpoint


def test_the_directory_is_whole(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "out"
    export(PROFILE, "base", "bfloat16", out, 30_000)
    assert len(TensorFiles(out)) == len(TensorFiles(base))
    assert {path.name for path in out.iterdir() if not path.name.startswith("model-")} == {
        INDEX, "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
        "special_tokens_map.json", "chat_template.jinja",
    }  # fmt: skip
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert "(bfloat16)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("checkpoint", "dtype", "out", "named"),
    [
        ("critic", "bfloat16", "out", "there is no checkpoint 'critic': choose one of base, extended, sft, rl"),
        ("rl", "bfloat16", "out", "make repro STAGE=rl"),
        ("base", "int4", "out", "there is no export dtype 'int4'"),
        ("base", "bfloat16", "data", "is there already: remove it"),
    ],
)
def test_a_refusal_leaves_nothing(
    base: Path, tmp_path: Path, checkpoint: str, dtype: str, out: str, named: str
) -> None:
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises((UserError, DatasetError), match=named):  # Kedro wraps a dataset's; the command unwraps it
        export(PROFILE, checkpoint, dtype, tmp_path / out, 30_000)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("gigabytes", [0.0, -1.0, float("nan"), float("inf")])
def test_a_shard_of_no_size_or_without_end_is_refused(gigabytes: float) -> None:
    with pytest.raises(UserError, match="SHARD_GB"):
        shard_bytes(gigabytes)
