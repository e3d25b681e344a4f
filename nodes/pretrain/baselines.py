"""What counting alone achieves: n-gram losses on the very tokens that the model is measured on."""

from collections.abc import Sequence

from engine.text.ngram import baselines
from engine.text.shards import EvalWindows, TokenStream
from engine.training.language import Loss, loss_of


def name_of(order: int) -> str:
    """The key of an order in metrics and in the report: its bigram, or its Kneser–Ney model of that order."""
    return "bigram" if order == 2 else f"kneser_ney_{order}gram"


def ngram_losses(train: TokenStream, windows: EvalWindows, orders: Sequence[int], vocab_size: int) -> dict[str, Loss]:
    """Loss of each order's modified Kneser–Ney model, counted on the whole training split, every kind of text.

    That is all the text that the model could draw on, and each document once: repeats add nothing to counts.
    """
    scores = baselines(train.runs(), windows.tokens, orders, vocab_size)
    n_bytes = int(windows.n_bytes.sum())
    return {name_of(order): loss_of(score.nats, score.tokens, n_bytes) for order, score in scores.items()}
