"""What counts as progress between two submissions of a job."""

from pathlib import Path

from engine.launch import exchange
from engine.launch.slurm.run import newest_progress


def test_a_checkpoint_or_a_block_is_progress_and_a_table_handed_over_is_none(tmp_path: Path) -> None:
    assert newest_progress(tmp_path) == ""
    for place in ("checkpoints/000004/meta.json", "played/00000000-00000127.parquet"):
        before = newest_progress(tmp_path)
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).touch()
        assert newest_progress(tmp_path) != before
    before = newest_progress(tmp_path)
    table = exchange.place(tmp_path, "play", "trajectories")
    table.mkdir()
    (table / "part-00000.parquet").touch()
    assert newest_progress(tmp_path) == before
