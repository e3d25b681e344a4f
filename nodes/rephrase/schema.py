"""The parameters and tables of the rephrase stage."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine.artifacts.schema import TableSchema
from engine.llm.protocol import LLMSettings

Layout = Literal["prose", "question_answer", "points", "notes"]

REWRITES: TableSchema = {
    "id": "str",
    "source_id": "str",
    "domain": "str",
    "style": "str",
    "perspective": "str",
    "chunks": "i64",
    "text": "str",
    "generator": "str",
    "n_bytes": "i64",
}
REJECTED_REWRITES: TableSchema = {**REWRITES, "reasons": "list[str]"}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Style(_Strict):
    """A way to write: a language model reads `prompt`; the template engine follows `layout` and uses `openers`."""

    layout: Layout
    prompt: str = Field(min_length=1, description='completes "Rewrite the passage as ..."')
    longest: float = Field(gt=0, description="longest rewrite, in lengths of the source; questions and steps take room")
    openers: tuple[str, ...] = Field((), description="first line of a rewrite; {subject} is what it is about")


class Perspective(_Strict):
    """A viewpoint: a language model reads `prompt`; the template engine puts a marker before some sentences."""

    prompt: str = Field(min_length=1, description='completes "Write from the viewpoint of ..."')
    markers: tuple[str, ...] = ()


class GateLimits(_Strict):
    """The limits of the fidelity gate; numbers, names, negations and directions have no tolerance."""

    max_lost_words: float = Field(ge=0, le=1, description="content words of the source not in the rewrite, as a share")
    max_new_words: float = Field(ge=0, le=1, description="content words of the rewrite not in the source, as a share")
    max_copied: float = Field(ge=0, le=1, description="runs of five words that also occur in the source, as a share")
    shortest: float = Field(ge=0, description="shortest rewrite, in lengths of the source")


class ModelRewrites(_Strict):
    """Documents that a language model rewrites in addition to the template engine."""

    documents: int = Field(ge=0, description="number of documents; 0 for none")
    domains: tuple[str, ...]
    max_document_bytes: int = Field(ge=1, description="longer documents are not given to the model")
    min_prose: float = Field(
        ge=0, le=1, description="running text as a share of the document; tables are left to rules"
    )
    chunk_bytes: int = Field(ge=64, description="bytes that the model rewrites at once")
    max_tokens: int = Field(ge=8, description="of one reply")
    temperature: float = Field(ge=0)
    llm: LLMSettings

    @property
    def packages_read(self) -> tuple[str, ...]:
        """The package with the model's weights, if the model is used at all."""
        return self.llm.weights_package if self.documents else ()


class Parameters(_Strict):
    """All parameters of the rephrase stage."""

    seed: int
    shares: dict[str, float] = Field(description="domain → share of its training documents that is rewritten")
    styles_by_domain: dict[str, tuple[str, ...]] = Field(description="domain → styles used for it")
    rewrites_per_document: int = Field(ge=1, description="distinct (style, perspective) pairs per document")
    chunk_bytes: int = Field(ge=64, description="a long document is rewritten in pieces of about this many bytes")
    excerpt_bytes: int = Field(ge=256, description="bytes of a long document given to the writer with every piece")
    styles: dict[str, Style]
    perspectives: dict[str, Perspective] = Field(min_length=1)
    gate: GateLimits
    model: ModelRewrites

    @model_validator(mode="after")
    def _consistent(self) -> "Parameters":
        for domain, share in self.shares.items():
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"shares.{domain} is {share}, but a share must be between 0 and 1")
        for domain in {*(name for name, share in self.shares.items() if share), *self.model.domains}:
            names = self.styles_by_domain.get(domain, ())
            if not names:
                raise ValueError(f"styles_by_domain.{domain} names no style, but documents of {domain} are rewritten")
            unknown = sorted(set(names) - set(self.styles))
            if unknown:
                raise ValueError(f"styles_by_domain.{domain} names {', '.join(unknown)}, which styles does not define")
            if len(names) * len(self.perspectives) < self.rewrites_per_document:
                raise ValueError(f"{domain} has fewer (style, perspective) pairs than rewrites_per_document")
        return self
