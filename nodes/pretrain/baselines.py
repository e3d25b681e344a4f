"""What counting alone achieves: n-gram losses on the same tokens that the model is measured on."""

from collections.abc import Sequence

from engine.text.ngram import baselines
from engine.text.shards import EvalWindows, TokenStream
from engine.training.language import Loss, loss_of


def name_of(order: int) -> str:
    """Return an order's key in metrics and in the report: bigram, or the Kneser–Ney model of that order."""
    return "bigram" if order == 2 else f"kneser_ney_{order}gram"


def ngram_losses(train: TokenStream, windows: EvalWindows, orders: Sequence[int], vocab_size: int) -> dict[str, Loss]:
    """Return the loss of each order's modified Kneser–Ney model, counted on all kinds of text of the training split.

    That is all the text that the model could learn from, each document once: repeats add nothing to counts.
    """
    scores = baselines(train.runs(), windows.tokens, orders, vocab_size)
    n_bytes = int(windows.n_bytes.sum())
    return {name_of(order): loss_of(score.nats, score.tokens, n_bytes) for order, score in scores.items()}
