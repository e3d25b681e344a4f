"""What `make repro` and Dagster's buttons run."""

from pipelines.repro import command


def test_each_profile_has_its_own_ledger() -> None:
    assert command("laptop") == ["dvc", "--wait-for-lock", "repro", "dvc.yaml"]
    assert command("laptop", "sft")[3:] == ["-s", "dvc.yaml:code", "dvc.yaml:sft"]
    assert command("k2", "sft", force=True)[3:] == ["-f", "-s", "conf/k2/dvc.yaml:code", "conf/k2/dvc.yaml:sft"]
