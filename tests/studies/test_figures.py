"""Figures of a run, from histories whose answers are known."""

import pytest

from studies.figures import POINTS, clip_rates, curves_of, figures_of, tokens_to


def row(step, **figures):
    base = {"step": step, "loss": 4.0, "max_logit": 10.0, "clipped_heads": 0.0, "clip_norm": 0.0}
    return {**base, "max_logit_heads": [[1.0, 1.0], [1.0, 1.0]], **figures}


def test_logits_during_warm_up_do_not_count() -> None:
    rows = [row(1, max_logit=500.0), row(2), row(3, max_logit=45.0, clipped_heads=2.0, clip_norm=0.5)]
    figures = figures_of(rows, warmup=1, tau=30.0, target=None, step_tokens=8)
    assert (figures["peak_max_logit"], figures["logit_over_tau"]) == (45.0, 1.5)
    assert (figures["clipped_head_steps"], figures["clip_norm"]) == (2.0, 0.5)
    assert "logit_over_tau" not in figures_of(rows, warmup=1, tau=None, target=None, step_tokens=8)


def test_clip_rates_by_quarter() -> None:
    clipped = [0, 0, 4, 4, 4, 2, 1, 1]
    rates = clip_rates([row(i + 1, clipped_heads=float(n)) for i, n in enumerate(clipped)])
    assert [rates[f"clip_rate_q{q}"] for q in (1, 2, 3, 4)] == [0.0, 1.0, 0.75, 0.25]
    assert (rates["clip_rate_peak"], rates["clip_rate_q4_over_peak"]) == (1.0, 0.25)
    assert clip_rates([row(1)])["clip_rate_q4_over_peak"] == 1.0


def test_tokens_to_a_loss_lie_on_the_line_between_two_points() -> None:
    rows = [row(10, validation_loss=5.0), row(20, validation_loss=4.0), row(30, validation_loss=3.0)]
    assert tokens_to(4.25, rows, 100) == {"tokens_to_target": pytest.approx(1750.0), "reached_target": 1.0}
    assert tokens_to(5.5, rows, 100)["tokens_to_target"] == 1000.0
    assert tokens_to(2.0, rows, 100) == {"tokens_to_target": 3000.0, "reached_target": 0.0}


def test_curves_are_thinned_and_keep_the_peak() -> None:
    rows = [row(i + 1, max_logit=float(i == 777) * 99) for i in range(1000)]
    curve = curves_of(rows)["max_logit"]
    assert len(curve["steps"]) == len(curve["values"]) == POINTS
    assert max(curve["values"]) == 99.0
    assert curve["steps"][-1] == 1000
