"""What a person does on Dagster's page, in a real browser: open the graph, select a stage, materialise it, watch it
turn green, open its plot.

With SCREENSHOTS=docs/img each view is kept there (`make test-ui SCREENSHOTS=docs/img`).
"""

import io
import os
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.project import ROOT

pytestmark = pytest.mark.slow
PATIENCE = 600_000  # ms
SETTLE = 2_500  # ms that the graph takes to move into place
GROUP = "asset-groups?expanded=global%40global%3Apretraining"


@pytest.fixture
def page(room):
    browser_path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    assert browser_path, "no chromium here: `apt-get install chromium`, or set CHROMIUM to its path"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1700, "height": 1000})
        opened.set_default_timeout(PATIENCE)
        yield opened
        opened.screenshot(path=room.project.path / "last_view.png")  # what a failing test saw
        browser.close()


def test_a_stage_is_selected_materialised_turns_green_and_shows_its_plot(room, page):
    page.goto(f"{room.address}/{GROUP}")
    node = page.get_by_text("pretrain_history", exact=True).first
    node.wait_for()
    node.click()
    expect(page.get_by_text("No materializations found").first).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_text("gpu", exact=True).first).to_be_visible(timeout=PATIENCE)
    keep(page, "selected")

    page.get_by_role("button", name="Materialize selected").click()
    page.get_by_text("Additional assets will be materialized").wait_for()
    page.get_by_role("button", name="Confirm").click()  # a stage runs whole: its other outputs are made with it
    room.wait("pretrain is fresh", lambda: room.badges()["pretrain_history"][1].startswith("fresh"))
    outputs = ("base_checkpoint", "pretrain_history", "pretrain_metrics")
    room.wait("all of it is green", lambda: {room.badges()[asset][0] for asset in outputs} == {"FRESH"})
    page.goto(f"{room.address}/{GROUP}")
    page.get_by_text("pretrain_history", exact=True).first.click()
    expect(page.get_by_text("stage_key").first).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_text("is currently refreshing")).to_have_count(0, timeout=PATIENCE)
    keep(page, "green")

    page.goto(f"{room.address}/assets/pretrain_history?view=events")
    page.get_by_text("[Show Markdown]").first.click()
    plots = page.locator('img[src^="data:image/png"]')
    expect(plots.first).to_be_visible(timeout=PATIENCE)
    assert room.materialisations("pretrain_history") == 1, "by the run itself, not by a sensor once more"
    names = {plot.get_attribute("alt") for plot in plots.all()}
    assert names == {"loss", "max_logit", "expert_load"}
    assert all(plot.evaluate("image => image.complete && image.naturalWidth > 300") for plot in plots.all())
    keep(page, "plot")


def test_a_link_leads_to_mlflow_and_a_failing_plan_says_why(room, page):
    page.goto(f"{room.address}/assets/pretrain_history?view=events")
    link = page.locator('a[href*="/#/experiments/"]').first
    expect(link).to_be_visible(timeout=PATIENCE)
    room.project.edit("conf/smoke/parameters/pretrain.yml", "batch_size: 8", "batch_size: 4")
    sentence = "stale: parameter pretrain.batch_size: 8 → 4"
    room.wait(sentence, lambda: room.badges()["pretrain_history"][1] == sentence)
    page.goto(f"{room.address}/assets/pretrain_history?view=checks")
    expect(page.get_by_text(sentence).first).to_be_visible(timeout=PATIENCE)
    keep(page, "stale")
    room.project.edit("conf/smoke/parameters/pretrain.yml", "batch_size: 4", "batch_size: 8")


def keep(page: Page, name: str) -> None:
    """Save the view if screenshots are requested, in few colours."""
    from PIL import Image

    page.wait_for_timeout(SETTLE)
    picture = Image.open(io.BytesIO(page.screenshot()))
    assert picture.size == (1700, 1000)
    if where := os.environ.get("SCREENSHOTS"):
        picture.convert("RGB").quantize(128).save(ROOT / Path(where) / f"dagster_{name}.png", optimize=True)
