"""The wiring: one Kedro pipeline a stage, and the faces that run, gate, track and explain it."""

import warnings

# OmegaConf 2.4 (pinned: earlier ones break Dagster's parser) renamed what Kedro 1.7 calls; nothing a user can act on.
warnings.filterwarnings("ignore", message=r"\s*register_new_resolver\(\) is deprecated")
