"""Take the README's screenshots from a real run: Dagster's graph, an asset, a gate; MLflow's comparison of runs.

    python docs/screenshots.py [--env laptop] [--asset pretrain_history] [--stage pretrain]

Needs chromium (`apt-get install chromium`, or CHROMIUM=path) and a profile that has run; for a comparison, two runs
of `--stage`. Starts both pages on free ports, writes docs/img/*.png and stops them.
"""

import argparse
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "img"
STARTUP_SECONDS = 120
SETTLE_MILLISECONDS = 6000
COLOURS = 128


def main() -> None:
    """Take all screenshots."""
    parser = argparse.ArgumentParser(description="Take the README's screenshots.")
    parser.add_argument("--env", default="laptop", help="profile")
    parser.add_argument("--asset", default="pretrain_history", help="the asset whose page is shown")
    parser.add_argument("--table", default="documents", help="the table whose gate is shown")
    parser.add_argument("--stage", default="pretrain", help="the stage whose runs are compared")
    arguments = parser.parse_args()
    IMAGES.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(ROOT))
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        with served(["-m", "dags.ui"], arguments.env, "/server_info") as address:
            dagster(browser, address, arguments.asset, arguments.table)
        with served(["-m", "pipelines.track", "--env", arguments.env, "--serve"], arguments.env, "/health") as address:
            mlflow(browser, address, arguments.env, arguments.stage)
        browser.close()


def dagster(browser: Any, address: str, asset: str, table: str) -> None:
    """Shoot the graph with the data group open, an asset's latest materialisation, and a gate's verdict."""
    graph = f"{address}/asset-groups?expanded=global%40global%3Adata"
    shoot(browser, graph, "dagster_graph", (1800, 1500), dagster_whole)
    shoot(browser, f"{address}/assets/{asset}?view=events", "dagster_asset", (1500, 950), dagster_plot)
    shoot(browser, f"{address}/assets/{table}?view=checks", "dagster_gate", (1500, 950))


def dagster_whole(page: Any) -> None:
    """Zoom out until the open group fits."""
    page.locator('[aria-label="zoom_out"]').click()


def dagster_plot(page: Any) -> None:
    """Open the plots of the shown materialisation."""
    link = page.get_by_text("[Show Markdown]")
    if link.count():
        link.first.click()


def mlflow(browser: Any, address: str, profile: str, stage: str) -> None:
    """The latest two runs of a stage side by side, or the one there is."""
    from mlflow import MlflowClient

    from pipelines.track.store import experiment_name

    client = MlflowClient(tracking_uri=address)
    experiment = client.get_experiment_by_name(experiment_name(profile))
    assert experiment is not None, f"profile {profile} has never run"
    number = experiment.experiment_id
    wanted = f"tags.`k2.stage` = '{stage}' and attributes.status = 'FINISHED'"
    runs = client.search_runs([number], wanted, order_by=["attributes.start_time DESC"], max_results=2)
    page = f"{address}/#/experiments/{number}/runs"
    shoot(browser, page, "mlflow_runs", (1700, 900), mlflow_versions)
    only = urllib.parse.quote(f"tags.`k2.stage` = '{stage}'")
    shoot(browser, f"{page}?searchFilter={only}&compareRunsMode=CHART", "mlflow_curves", (1700, 1050), mlflow_curves)
    if len(runs) > 1:
        ids = ",".join(f'"{run.info.run_id}"' for run in runs)
        page = f'{address}/#/compare-runs?runs=[{ids}]&experiments=["{number}"]'
        shoot(browser, page, "mlflow_compare", (1700, 1300), mlflow_differences)


def mlflow_versions(page: Any) -> None:
    """Open every pipeline version, so that its stages show."""
    for closed in reversed(page.locator('.ag-row-level-0 [data-component-id*="runnamecellrenderer"]').all()):
        closed.click()
        page.wait_for_timeout(1000)


def mlflow_curves(page: Any) -> None:
    """Show the stage's curves instead of every headline figure of its pipeline versions."""
    mlflow_versions(page)
    page.get_by_placeholder("Search metric charts").fill("^curves/(loss|validation|grad|lr|max|clipped|reward)")


def mlflow_differences(page: Any) -> None:
    """Show only the parameters, metrics and tags that differ."""
    for switch in page.get_by_role("switch").all():
        switch.click(force=True)


def shoot(browser: Any, url: str, name: str, size: tuple[int, int], prepare: Any = None) -> None:
    """Load a page, let it settle, save it as docs/img/<name>.png in few colours."""
    from PIL import Image

    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    for key, value in (("panelOpen_v1", "false"), ("fab.autoOpenedOnFirstLoad_v1", "true")):
        page.add_init_script(f"localStorage.setItem('mlflow.assistant.{key}', '{value}')")
    page.goto(url)
    page.wait_for_timeout(SETTLE_MILLISECONDS)
    if prepare:
        prepare(page)
        page.wait_for_timeout(SETTLE_MILLISECONDS // 2)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(COLOURS)
    picture.save(IMAGES / f"{name}.png", optimize=True)
    page.close()
    print(f"docs/img/{name}.png  {(IMAGES / f'{name}.png').stat().st_size // 1000} kB")


@contextmanager
def served(module: list[str], profile: str, alive: str) -> Iterator[str]:
    """Run one of our servers on a free port until the block ends; yields its address."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, *module, "--port", str(port)], cwd=ROOT, env={**os.environ, "K2_PROFILE": profile},
        start_new_session=True, preexec_fn=interruptible,  # noqa: PLW1509 - no threads yet
    )  # fmt: skip
    try:
        wait_for(f"http://127.0.0.1:{port}{alive}", server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)


def interruptible() -> None:
    """A shell's background job ignores Ctrl-C, and so would the server."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def wait_for(url: str, server: "subprocess.Popen[bytes]") -> None:
    """Return when `url` answers."""
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except (urllib.error.URLError, OSError):
            time.sleep(1)
        else:
            return
    sys.exit(f"error: {url} does not answer; start it by hand to see why.")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def chromium() -> str:
    """The browser's path."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not path:
        sys.exit("error: no chromium here: `apt-get install chromium`, or set CHROMIUM to its path.")
    return path


if __name__ == "__main__":
    main()
