"""The published shapes that the planner is tested on."""

import yaml

from engine.model.config import K2Config
from engine.model.parameters import config_from_parameters
from tests.docs.readme import ROOT


def profile_model(profile: str) -> K2Config:
    """The model of a profile's pre-training, over that of conf/base."""
    base, own = (
        yaml.safe_load((ROOT / "conf" / name / "parameters" / "pretrain.yml").read_text())["pretrain"]
        for name in ("base", profile)
    )
    return config_from_parameters({**base["model"], **own["model"]}, 163584, own["sequence_length"])


K2 = profile_model("k2")
MOONLIGHT = profile_model("moonlight")
