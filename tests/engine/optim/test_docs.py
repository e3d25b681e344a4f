"""The code of docs/muonclip.md, as a reader would run it."""

import re
from pathlib import Path

import pytest

CODE = re.search(
    r"```python\n(.*?)```", (Path(__file__).parents[3] / "docs/muonclip.md").read_text(encoding="utf-8"), re.DOTALL
).group(1)


@pytest.fixture
def shown():
    names = {}
    exec(CODE, names)
    return names


def test_the_shown_block_trains_and_its_weights_go_to_the_optimizers_that_the_page_names(shown):
    losses = [row["loss"] for row in shown["history"]]
    assert losses[-1] < losses[0] - 1
    optimizer = shown["optimizer"]
    assert len(optimizer.attentions) == 2
    assert {"0.weight", "4.weight"} <= set(optimizer.rest)
    assert set(optimizer.muon) == {name for name, p in shown["model"].named_parameters() if p.ndim == 2} - set(
        optimizer.rest
    )
    assert optimizer.step()["max_logit"] == float("-inf"), "the maxima start anew after each step"


def test_the_shown_block_is_clipped_when_its_logits_grow(shown):
    model, torch = shown["model"], shown["torch"]
    with torch.no_grad():
        model[1].q_proj.weight.mul_(50)
    optimizer = shown["MuonClip"](model, 0.0, tau=2.0, is_muon=lambda *_: False)
    model(shown["ids"])
    over = int((model[1].logits.max_logit_H > 2).sum())
    assert over > 0
    optimizer.step()
    model(shown["ids"])
    assert float(model[1].logits.max_logit_H.max()) == pytest.approx(2.0, rel=1e-4)
