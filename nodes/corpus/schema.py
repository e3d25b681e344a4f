"""The parameters and tables of the corpus stage."""

from typing import Any

from pydantic import Field, field_validator, model_validator

from engine.artifacts.schema import TableSchema
from engine.errors import UserError
from nodes.corpus.sources import KINDS, Domain, Source, Strict

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


class Quality(Strict):
    """Limits for the documents of one domain; after Gopher (arXiv 2112.11446, appendix A.1.1)."""

    min_bytes: int = Field(ge=0)
    min_letters: float = Field(ge=0, le=1, description="letters as a share of the characters that are not spaces")
    max_digits: float = Field(ge=0, le=1, description="digits as a share of the same: above it is a data table")
    min_stop_words: float = Field(ge=0, le=1, description="English function words as a share of the words")
    max_foreign: float = Field(ge=0, le=1, description="letters outside ASCII as a share of all characters")
    max_line_bytes: int = Field(ge=1)
    max_repeated_lines: float = Field(ge=0, le=1, description="lines seen before in the document, as a share")


class NearDuplicates(Strict):
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


class Parameters(Strict):
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
