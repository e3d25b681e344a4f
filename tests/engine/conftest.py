"""A small tokenizer, trained once for all tests of the engine."""

import keyword
import sysconfig
from pathlib import Path

import pytest

from engine.text import bpe
from engine.text.tokenizer import K2Tokenizer

STDLIB = Path(sysconfig.get_paths()["stdlib"])


def texts() -> list[str]:
    files = ["string.py", "textwrap.py", "heapq.py", "bisect.py", "keyword.py", "json/decoder.py", "fractions.py"]
    return [(STDLIB / name).read_text() for name in files] + ["中文 ñandú été Ελλάδα " * 3, " ".join(keyword.kwlist)]


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer")
    bpe.save(bpe.train(texts(), vocab_size=700, n_special=20, max_digits=1), directory, context_length=512)
    return directory


@pytest.fixture(scope="session")
def tokenizer(tokenizer_dir: Path) -> K2Tokenizer:
    return K2Tokenizer.load(tokenizer_dir)
