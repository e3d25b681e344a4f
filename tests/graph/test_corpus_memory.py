"""The corpus stage's memory does not follow its sources: measured in processes of their own, as the kernel saw it."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

# Batches small enough to be full many times over in a few megabytes; four bands, since hashing is most of the time.
_STAGE = """
import json, resource, sys, yaml
from pathlib import Path
from engine.artifacts import tables
from nodes.corpus import build, spool
from nodes.corpus.nodes import build_corpus
from nodes.corpus.schema import DOCUMENTS
from pipelines.gates import profile_table

spool.BATCH_BYTES, build.PART_BYTES = 1 << 18, 1 << 20
given = yaml.safe_load(Path("conf/base/parameters/corpus.yml").read_text())["corpus"]
source = {"kind": "jsonl", "path": sys.argv[1], "domain": "web", "license": "CC0-1.0", "max_bytes": 10**9}
near = {**given["near_duplicates"], "bands": 4}
work = Path(sys.argv[1]).with_suffix("")
documents, *_ = build_corpus({**given, "sources": {"big": source}, "near_duplicates": near}, work)
rows = tables.write(documents, work / "documents", DOCUMENTS, name="documents")
profile_table(tables.scan(work / "documents", DOCUMENTS), DOCUMENTS)
print(json.dumps([rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""
_GROWTH = 2  # megabytes of memory a megabyte of text; a corpus held whole as frames and texts takes four to five


def write_texts(path: Path, megabytes: int) -> None:
    rng = random.Random(0)
    words = ["the", "of", "and", "is"] * 400 + ["".join(rng.choices("abcdefghij", k=6)) for _ in range(6000)]
    with path.open("w") as stream:
        for _ in range(megabytes * 400):
            stream.write(json.dumps({"text": " ".join(rng.choices(words, k=440))}) + "\n")


def test_four_times_the_text_takes_the_same_memory(tmp_path: Path) -> None:
    peaks = {}
    for megabytes in (4, 16):
        path = tmp_path / f"{megabytes}.jsonl"
        write_texts(path, megabytes)
        shown = subprocess.run([sys.executable, "-c", _STAGE, path], capture_output=True, text=True, check=True)
        rows, peaks[megabytes] = json.loads(shown.stdout)
        assert rows == megabytes * 400
    assert peaks[16] - peaks[4] < _GROWTH * 12, peaks
