"""Generate dvc.yaml: DVC's view of kedro.yml, the pipelines and the catalog, one file for each profile.

python -m dags.dvc_yaml           writes dvc.yaml and conf/<profile>/dvc.yaml
python -m dags.dvc_yaml --check   exits 1 if one of them is out of date
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import yaml

from pipelines import graph
from pipelines.stages_file import ROOT, load_stages_file

CURVES = {
    "pretrain_history": ("loss", "max_logit", "expert_load"),
    "extend_report": ("length_curves", "loss", "max_logit", "expert_load"),
    "sft_history": ("loss", "loss_by_kind", "max_logit", "expert_load"),
    "rl_history": ("curves",),
}
"""Dataset → its pictures that `dvc plots` shows side by side (it cannot read JSON lines)."""
HEADER = "# Generated from kedro.yml, the pipelines and the catalog by `make views`. Do not edit.\n"


def dvc_view(profile: str) -> dict[str, Any]:
    """Return all stages of a profile as DVC sees them, and the files that `dvc params` and `dvc plots` compare."""
    stages: dict[str, Any] = {"code": _code_stage(profile)}
    for stage in load_stages_file().stages:
        stages[stage] = _stage(stage, profile)
    if graph.dvc_file(profile).parent != ROOT:
        stages = {name: {"wdir": "../..", **content} for name, content in stages.items()}
    return {"stages": stages, "params": _parameter_files(profile), "plots": _plots(profile)}


def render(profile: str) -> str:
    """Return the text of a profile's dvc.yaml."""
    return HEADER + str(yaml.safe_dump(dvc_view(profile), sort_keys=False, width=140))


def _code_stage(profile: str) -> dict[str, Any]:
    return {
        "cmd": f"python -m pipelines.commands.code --env {profile}",
        "desc": "each stage's code fingerprint and parameters",
        "always_changed": True,
        "outs": [{_code(stage, profile): {"persist": True}} for stage in load_stages_file().stages],
    }


def _stage(stage: str, profile: str) -> dict[str, Any]:
    outline = graph.stage_graph(stage)
    paths = {name: _relative(graph.tracked_path(profile, name)) for name in (*outline.inputs, *outline.outputs)}
    metrics = [name for name in outline.outputs if name.endswith("_metrics")]
    return {
        # exec: the stage replaces the shell that DVC starts it in, so that it notices when DVC dies; K2_PARENT names
        # DVC's process, in case that died before the stage could look.
        "cmd": f"exec env K2_PARENT=$PPID kedro run --env {profile} --pipelines {stage}",
        "deps": [_code(stage, profile), *(paths[name] for name in outline.inputs)],
        "outs": [{paths[name]: {"persist": True}} for name in outline.outputs if name not in metrics],
        "metrics": [{paths[name]: {"persist": True}} for name in metrics],
    }


def _parameter_files(profile: str) -> list[str]:
    """Return the files with parameters. No stage depends on them: each depends on its resolved parameters."""
    folders = [ROOT / "conf" / name / "parameters" for name in ("base", profile)]
    files = [path for folder in folders for path in sorted(folder.glob("*.yml"))]
    return [os.path.relpath(path, graph.dvc_file(profile).parent) for path in files]


def _plots(profile: str) -> list[str]:
    folder = graph.dvc_file(profile).parent
    directories = {name: os.path.relpath(graph.dataset_path(profile, name), folder) for name in CURVES}
    return [f"{directories[name]}/{curve}.png" for name, curves in CURVES.items() for curve in curves]


def _code(stage: str, profile: str) -> str:
    return f"data/{profile}/code/{stage}.json"


def _relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def main() -> None:
    """Write or check the dvc.yaml of every profile."""
    parser = argparse.ArgumentParser(description="Generate dvc.yaml.")
    parser.add_argument("--check", action="store_true", help="only compare")
    check = parser.parse_args().check
    for profile in load_stages_file().profiles:
        path = graph.dvc_file(profile)
        text = render(profile)
        if check and (not path.is_file() or path.read_text(encoding="utf-8") != text):
            sys.exit(
                f"error: {path.relative_to(ROOT)} differs from kedro.yml, pipelines and catalog: run `make views`."
            )
        if not check:
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
