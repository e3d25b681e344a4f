"""Read plain text: one document per file."""

from collections.abc import Iterator

from nodes.corpus.document import RawDocument
from nodes.corpus.readers.file import MOST_BYTES, File, decoded
from nodes.corpus.sources import FileSource


def read_text(file: File, source: FileSource) -> Iterator[RawDocument]:
    """Yield the file's text as one document named after the file; nothing if it is blank.

    Raises UserError if the bytes are not UTF-8 text, and for a file larger than `MOST_BYTES`.
    """
    with file.opened() as stream, file.reading():
        raw = stream.read(MOST_BYTES + 1)
    if len(raw) > MOST_BYTES:
        raise file.refusal(f"has more than {MOST_BYTES >> 20} MiB of text in one document", "cut it into files")
    if (nul := raw.find(b"\0")) >= 0:
        raise file.refusal(f"is not text: byte {nul} is NUL", "convert it (iconv -f UTF-16 -t UTF-8) or take it out")
    text = decoded(file, raw)
    if text.strip():
        yield RawDocument(file.name, text)
