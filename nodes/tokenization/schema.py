"""Parameters of the tokenization stage."""

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

# Bytes of the base alphabet, and the tokens that K2's chat format needs (engine.text.special.MIN_SPECIAL).
BYTES = 256
MIN_SPECIAL = 20


class Parameters(BaseModel):
    """The parameters of the tokenization stage, `params:tokenization`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(ge=0, description="the key of every choice of documents and their order")
    vocab_size: int = Field(description="ids in all, special ones included; K2: 163,840")
    special_tokens: int = Field(ge=MIN_SPECIAL, description="ids kept at the end of the vocabulary; K2: 256")
    max_digits: int = Field(ge=1, le=3, description="longest run of digits in one token; K2: 3")
    train_bytes: int = Field(gt=0, description="bytes of text that the BPE is learned from")
    context_length: int = Field(gt=0, description="model_max_length in tokenizer_config.json")
    weights: dict[str, float] = Field(description="share of the training tokens by domain; need not sum to one")
    train_tokens: int = Field(gt=0, description="tokens in the training shards")
    max_epochs: float = Field(gt=0, description="most times that a domain may be repeated to reach its share")
    eval_tokens: int = Field(gt=0, description="most tokens of one domain in validation, and in test")
    shard_tokens: int = Field(gt=0, description="most tokens in one file")
    chunk_documents: int = Field(gt=0, description="documents that are encoded, and kept on disk, at a time")

    @field_validator("weights")
    @classmethod
    def _weights(cls, weights: dict[str, float]) -> dict[str, float]:
        negative = sorted(name for name, weight in weights.items() if weight < 0)
        if negative:
            raise ValueError(f"the weight of {', '.join(negative)} is negative: use 0 to leave a domain out")
        if sum(weights.values()) <= 0:
            raise ValueError("the weights sum to zero: give at least one domain a positive weight")
        return weights

    @model_validator(mode="after")
    def _vocabulary(self) -> "Parameters":
        least = BYTES + self.special_tokens + 1
        if self.vocab_size < least:
            raise ValueError(
                f"vocab_size is {self.vocab_size}, but {BYTES} bytes, {self.special_tokens} special tokens "
                f"and one merge need at least {least}"
            )
        return self
