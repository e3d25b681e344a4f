"""Clean and judge documents with Polars expressions: one normal form of text, and a reason for each refusal."""

import polars as pl

from nodes.corpus.schema import Quality

# The most frequent English function words: their share distinguishes English running text from other languages and
# word lists (Gopher's stop-word rule, arXiv 2112.11446, with more words so that short texts are judged fairly).
_STOP_WORDS = (
    "the|of|and|to|in|is|a|that|for|it|as|with|by|on|be|are|"
    "this|from|or|an|at|not|was|which|if|has|have|its|can|will|one|when|"
    "all|no|but|they|you|were|their|more|than|been"
)
_CONTROL = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200b\u200e\u200f\u2060\ufeff]"


def normal_form(text: pl.Expr) -> pl.Expr:
    """Return NFC text with Unix line ends, no control or zero-width characters, no trailing spaces, few blank lines."""
    return (
        text.str.normalize("NFC")
        .str.replace_all("\r\n?", "\n")
        .str.replace_all(_CONTROL, "")
        .str.replace_all(r"[ \t]+\n", "\n")
        .str.replace_all(r"\n{4,}", "\n\n\n")
        .str.strip_chars("\n")
        .str.strip_chars_end()
    )


def refusal(limits: dict[str, Quality]) -> pl.Expr:
    """Return why a document is refused, or null. Reads `domain`, `text`; `limits` by domain."""
    visible = pl.max_horizontal(pl.col("text").str.count_matches(r"\S"), pl.lit(1))
    words = pl.max_horizontal(pl.col("text").str.count_matches(r"\w+"), pl.lit(1))
    stop_words = pl.col("text").str.count_matches(rf"(?i)\b(?:{_STOP_WORDS})\b")
    lines = pl.col("text").str.split("\n").list.eval(pl.element().filter(pl.element().str.len_chars() > 0))
    n_lines = pl.max_horizontal(lines.list.len(), pl.lit(1))
    rules = (
        ("too_short", pl.col("text").str.len_bytes() < _limit(limits, "min_bytes")),
        ("few_letters", pl.col("text").str.count_matches(r"\pL") / visible < _limit(limits, "min_letters")),
        ("data_table", pl.col("text").str.count_matches(r"\d") / visible > _limit(limits, "max_digits")),
        ("foreign_script", pl.col("text").str.count_matches(r"[^\x00-\x7f]") / visible > _limit(limits, "max_foreign")),
        ("not_english", stop_words / words < _limit(limits, "min_stop_words")),
        ("long_line", lines.list.eval(pl.element().str.len_bytes()).list.max() > _limit(limits, "max_line_bytes")),
        ("repeated_lines", 1 - lines.list.n_unique() / n_lines > _limit(limits, "max_repeated_lines")),
    )
    return pl.coalesce(*(pl.when(broken).then(pl.lit(reason)) for reason, broken in rules))


def _limit(limits: dict[str, Quality], field: str) -> pl.Expr:
    """Return the limit for each row's domain."""
    return pl.col("domain").replace_strict(
        {domain: float(getattr(quality, field)) for domain, quality in limits.items()}, return_dtype=pl.Float64
    )
