"""A study small enough to run whole in a test, and its registration in a git repository of its own."""

import subprocess
from copy import deepcopy
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
COMMON = yaml.safe_load((ROOT / "conf/studies/common.yml").read_text())
SMALL = {
    "model": {
        "hidden_size": 16, "intermediate_size": 16, "moe_intermediate_size": 8, "num_attention_heads": 2,
        "q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 4,
        "n_routed_experts": 4, "num_experts_per_tok": 2,
    },
    "sequence_length": 16, "batch_size": 2, "eval_every": 4, "eval_windows": 2, "final_windows": 4,
    "schedule": {"warmup": 2},
}  # fmt: skip


def same(role, arms, identical=True):
    return {"role": role, "says": "weights", "measure": "weights", "arms": arms, "identical": identical}


STUDY = {
    "claim": "clipping that never fires changes nothing",
    "source": "a test",
    "finding": "paper",
    "hypothesis": "the same bits",
    "scale": "none",
    "pilot": "none",
    "exclusions": "none",
    "seeds": [1, 2, 3, 4, 5],
    "budgets": {"1x": 6, "2x": 12},
    "settings": SMALL,
    "sweeps": {
        "rate": {
            "about": "the rate.",
            "grid": {"optimizer.lr": [0.001, 0.01, 0.02]},
            "seeds": [11],
            "steps": 4,
        }
    },
    "arms": {
        "never": {"about": "τ out of reach", "settings": {"optimizer": {"tau": 1.0e9}}},
        "without": {"about": "no τ"},
        "tuned": {"about": "the sweep's rate", "tuned_by": "rate", "budgets": ["1x"]},
        "constant": {"about": "a trunk", "settings": {"schedule": {"shape": "constant"}}, "budgets": ["2x"]},
        "branched": {"about": "decays from it", "branch_of": "constant"},
        "wild": {"about": "diverges", "settings": {"optimizer": {"lr": 1.0e30}}, "budgets": ["1x"]},
    },
    "criteria": [
        same("claim", ["never", "without"]),
        {"role": "claim", "says": "loss", "measure": "loss", "contrast": {"never": 1, "without": -1}, "within": 0.02},
        same("negative_control", ["branched", "without"]),
        {**same("positive_control", ["constant", "without"], False), "budgets": ["2x"]},
    ],
}


def study(**changes):
    return {**deepcopy(STUDY), **changes}


def register_at(folder: Path, content: dict, name: str = "toy", commit: bool = True) -> Path:
    """Return conf/studies of a new repository under `folder`, committed or not."""
    conf = folder / "conf"
    conf.mkdir(parents=True, exist_ok=True)
    (conf / "common.yml").write_text(yaml.safe_dump(COMMON))
    (conf / f"{name}.yml").write_text(yaml.safe_dump(content, sort_keys=False))
    if commit:
        git(folder, "init", "-q")
        git(folder, "add", "-A")
        git(folder, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "register")
    return conf


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)
