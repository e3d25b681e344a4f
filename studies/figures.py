"""Compute the figures of a run that criteria may test, from its history's rows."""

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
POINTS = 80
"""The most points of a curve; each is the mean of the steps that it covers (the maximum for max_logit)."""
CURVES = ("loss", "validation_loss", "max_logit", "clipped_share", "clip_norm", "expert_load_mean")
QUARTERS = 4


def figures_of(rows: Sequence[Row], *, warmup: int, tau: float | None, target: float | None, step_tokens: int) -> Row:
    """Return figures by name, without those that a run does not have (over τ without τ).

    `peak_max_logit` and `logit_over_tau` look at the steps after warm-up. `clip_rate_q1` … `_q4` are the shares of
    (head, step) pairs clipped in each quarter of the run, `clip_rate_peak` the largest of them.
    """
    after = rows[warmup:] or rows
    tail = rows[-max(1, len(rows) // 20) :]
    peak = max(row["max_logit"] for row in after)
    out: dict[str, float] = {
        "training_loss": _mean([row["loss"] for row in tail]),
        "peak_max_logit": peak,
        "final_max_logit": _mean([row["max_logit"] for row in tail]),
        "clipped_head_steps": sum(row["clipped_heads"] for row in rows),
        "clip_norm": sum(row["clip_norm"] for row in rows),
        "spikes": sum(row.get("spike", 0.0) for row in rows),
        "expert_load": _mean([row["expert_load_mean"] for row in tail if "expert_load_mean" in row] or [1.0]),
    }
    if tau is not None:
        out["logit_over_tau"] = peak / tau
    out |= clip_rates(rows)
    if target is not None:
        out |= tokens_to(target, rows, step_tokens)
    return out


def clip_rates(rows: Sequence[Row]) -> dict[str, float]:
    """Return the shares of clipped heads by quarter of the run, the largest, and the last over it (1 without any)."""
    heads = sum(len(layer) for layer in rows[-1]["max_logit_heads"])
    out = {}
    for quarter in range(QUARTERS):
        part = rows[quarter * len(rows) // QUARTERS : (quarter + 1) * len(rows) // QUARTERS] or rows[-1:]
        out[f"clip_rate_q{quarter + 1}"] = _mean([row["clipped_heads"] for row in part]) / heads
    peak, last = max(out.values()), out[f"clip_rate_q{QUARTERS}"]
    return {**out, "clip_rate_peak": peak, "clip_rate_q4_over_peak": last / peak if peak else 1.0}


def tokens_to(target: float, rows: Sequence[Row], step_tokens: int) -> dict[str, float]:
    """Return the tokens until the validation curve first falls to `target`, linear between its points.

    A run that never gets there counts as if it did so at its end (`reached_target` 0), which favours it.
    """
    points = [(row["step"], row["validation_loss"]) for row in rows if "validation_loss" in row]
    before = (0, float("inf"))
    for step, loss in points:
        if loss <= target:
            start, above = before
            share = (above - target) / (above - loss) if above > loss and above != float("inf") else 1.0
            return {"tokens_to_target": (start + share * (step - start)) * step_tokens, "reached_target": 1.0}
        before = (step, loss)
    return {"tokens_to_target": float(rows[-1]["step"] * step_tokens), "reached_target": 0.0}


def curves_of(rows: Sequence[Row]) -> dict[str, dict[str, list[float]]]:
    """Return curve → its steps and values, at most `POINTS` of them, in five digits."""
    out = {}
    heads = sum(len(layer) for layer in rows[-1]["max_logit_heads"])
    shares = [{**row, "clipped_share": row["clipped_heads"] / heads} for row in rows]
    for name in CURVES:
        points = [(row["step"], row[name]) for row in shares if name in row]
        count = min(POINTS, len(points))
        bins = [points[i * len(points) // count : (i + 1) * len(points) // count] for i in range(count)]
        reduce = max if name == "max_logit" else _mean
        out[name] = {
            "steps": [part[-1][0] for part in bins],
            "values": [float(f"{reduce([value for _, value in part]):.5g}") for part in bins],
        }
    return out


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
