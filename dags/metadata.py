"""The metadata on an asset's page: rows, tokens, bytes, duration, hashes, figures, plots, links."""

import base64
import io
from pathlib import Path
from typing import Any

import dagster as dg

from dags.links import dvc_hash, mlflow_page, slurm_jobs
from engine.artifacts.files import canonical_json, digest_bytes, files_below, object_if_sound
from engine.remedy import make_again, move_aside
from pipelines import graph

PLOT_WIDTH = 720  # pixels; a plot inside the event log has to be small
MOST_PLOTS = 4
RECENT_EVENTS = 500


def reported(instance: dg.DagsterInstance, dataset: str) -> set[str]:
    """Return the names of the run records in an asset's recent materialisations."""
    entries = instance.fetch_materializations(dg.AssetKey(dataset), limit=RECENT_EVENTS).records
    events = [entry.asset_materialization for entry in entries]
    return {str(event.metadata["run_record"].value) for event in events if event and "run_record" in event.metadata}


def materialisation(profile: str, dataset: str, record: dict[str, Any] | None) -> dict[str, Any]:
    """Return the Dagster metadata of a dataset as it is published now.

    Args:
        profile: the profile's name.
        dataset: the asset.
        record: the record of the run that made it; None if it came from DVC's cache without one.

    """
    path = graph.dataset_path(profile, dataset)
    metadata: dict[str, Any] = {"path": dg.MetadataValue.path(path), **_sizes(path)}
    metadata |= {
        "hash": (record or {}).get("outputs", {}).get(dataset) or graph.digest_of(profile, dataset) or "absent"
    }
    if locked := dvc_hash(profile, dataset):
        metadata["dvc_md5"] = locked
    if record:
        metadata |= {"seconds": float(record["seconds"]), "stage_key": record["key"], "run_record": record["path"].name}
        metadata |= {"finished": str(record["finished"]), "host": str(record["host"]), "commit": str(record["commit"])}
        figures = record["metrics"]
        shown = (
            figures if dataset.endswith("_metrics") else {name: figures[name] for name in figures if "tokens" in name}
        )
        metadata |= {f"metric/{name}": value for name, value in shown.items()}
        metadata |= slurm_jobs(record)
        if page := mlflow_page(record):
            metadata["mlflow"] = page
    if plots := _plots(path):
        metadata["plots"] = dg.MetadataValue.md("\n\n".join(_inline(plot) for plot in plots))
    return metadata


def verdict(profile: str, dataset: str) -> dict[str, Any] | None:
    """Return the latest gate report of a table; None if there is none."""
    path = gate_report(profile, dataset)
    return object_if_sound(path, move_aside(path))


def gate_report(profile: str, dataset: str) -> Path:
    """Return the path of the gate's report on a table."""
    return graph.runs_folder(profile, graph.producer(dataset)) / "gates" / f"{dataset}.json"


def verdict_metadata(profile: str, report: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata that the asset check's page shows of a gate report."""
    rows = [_expectation(row) for row in report["expectations"] if row["description"] or not row["passed"]]
    docs = graph.data_folder(profile) / ".runs" / "data_docs" / f"{report['dataset']}.html"
    table = "\n".join(["| | statistic | observed | expected |", "|---|---|---|---|", *rows])
    return {
        "rows": report["profile"]["row_count"],
        "expectations": len(report["expectations"]),
        "failures": "; ".join(report["failures"]) or "none",
        "verdict": dg.MetadataValue.md(table),
        "report": digest_bytes(canonical_json(report)),
        "data_docs": dg.MetadataValue.path(docs),
    }


def _expectation(row: dict[str, Any]) -> str:
    observed = row["observed"]
    shown = f"{observed:.4g}" if isinstance(observed, float) else observed
    return f"| {'✔' if row['passed'] else '✘'} | {row['statistic']} | {shown} | {row['description'] or row['type']} |"


def _sizes(path: Path) -> dict[str, Any]:
    if path.is_file():
        return {"bytes": path.stat().st_size}
    sizes: dict[str, Any] = {"bytes": sum(file.stat().st_size for file in files_below(path))}
    manifest = path / "manifest.json"
    counts = (object_if_sound(manifest, make_again(path.parent.name, path)) or {}).get("counts", {})
    if "rows" in counts:
        sizes["dagster/row_count"] = int(counts["rows"])
    if columns := counts.get("columns"):
        sizes["dagster/column_schema"] = dg.TableSchema([dg.TableColumn(name, kind) for name, kind in columns.items()])
    return sizes


def _plots(path: Path) -> list[Path]:
    """Return the dataset's plots, loss curves first."""
    pictures = [file for file in files_below(path) if file.suffix == ".png"] if path.is_dir() else []
    return sorted(pictures, key=lambda file: ("loss" not in file.name, file.name))[:MOST_PLOTS]


def _inline(path: Path) -> str:
    """Return a PNG as a Markdown image, scaled down."""
    from PIL import Image

    picture = Image.open(path).convert("RGB")
    if picture.width > PLOT_WIDTH:
        picture = picture.resize((PLOT_WIDTH, picture.height * PLOT_WIDTH // picture.width))
    buffer = io.BytesIO()
    picture.quantize(64).save(buffer, "PNG", optimize=True)
    return f"![{path.stem}](data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()})"
