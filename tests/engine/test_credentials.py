"""Credentials are read from the environment or a file, and no message shows one."""

from pathlib import Path

import pytest

from engine.credentials import holds_credentials, masked, names_secret, secret
from engine.errors import UserError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:hunter2@db:5432/x", "postgresql://***@db:5432/x"),
        ("mysql+pymysql://me:hun/ter@2?#@db/x", "mysql+pymysql://***@db/x"),
        ("at https://:hunter2@host/v1 (refused)", "at https://***@host/v1 (refused)"),
        ("'https://hf_hunter2@hub/x'", "'https://***@hub/x'"),
        ("https://host/x?a=1&X-Amz-Signature=hunter2&b=2#c", "https://host/x?a=1&X-Amz-Signature=***&b=2#c"),
        ("https://host/x?sig=hunter2", "https://host/x?sig=***"),
        ("export A_KEY='hunter2' B=1", "export A_KEY='***' B=1"),
        ("{'API_TOKEN': 'hunter2', 'B': 1}", "{'API_TOKEN': '***', 'B': 1}"),
        ("https://host/x?access_token=hunter2 or s3://a:hunter2@b", "https://host/x?access_token=*** or s3://***@b"),
    ],
)
def test_a_secret_is_masked_and_the_rest_is_left(text: str, shown: str) -> None:
    assert masked(text) == shown
    assert str(UserError(text)) == shown
    assert masked(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "hf://datasets/org/name@main/a.parquet",
        "sftp://someone@host/a",
        "http://127.0.0.1:8080/v1@2",
        "http://[::1]:5000/a@b",
        "sqlite:////tmp/a.db",
        "https://host/a?design=1",
        "export A_KEY=$(cat /home/me/key) B_KEY_FILE=/x; put it into A_KEY: or else",
        "write to me@host: it is at s3://bucket/a",
    ],
)
def test_what_holds_no_secret_is_left_alone(text: str) -> None:
    assert not holds_credentials(text)


def test_a_secret_given_is_masked_wherever_a_server_repeats_it() -> None:
    assert masked("incorrect key sk-1 given", "sk-1", "") == "incorrect key *** given"


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        *((name, True) for name in ("OPENAI_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "my_apikey")),
        *((name, False) for name in ("OPENAI_API_KEY_FILE", "TOKENIZERS_PARALLELISM", "NCCL_IB_PKEY", "KEYBOARD")),
    ],
)
def test_variables_that_hold_secrets_are_known_by_name(name: str, is_one: bool) -> None:
    assert names_secret(name) is is_one


def test_a_secret_comes_from_its_variable_or_from_the_file_that_another_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    monkeypatch.delenv("MY_KEY_FILE", raising=False)
    assert secret("MY_KEY") == ""
    (tmp_path / "key").write_text("from-file\n")
    monkeypatch.setenv("MY_KEY_FILE", str(tmp_path / "key"))
    assert secret("MY_KEY") == "from-file"
    monkeypatch.setenv("MY_KEY", "from-variable")
    assert secret("MY_KEY") == "from-variable"


@pytest.mark.parametrize("content", [None, b"", b"two words", b"\xff"])
def test_a_file_without_a_secret_is_refused_by_name(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    monkeypatch.delenv("MY_KEY", raising=False)
    monkeypatch.setenv("MY_KEY_FILE", str(tmp_path / "key"))
    with pytest.raises(UserError, match=r"MY_KEY_FILE: .*key") as caught:
        secret("MY_KEY")
    assert "two words" not in str(caught.value)
