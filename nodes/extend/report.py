"""The extension's report: loss by position and the passkey probe for each way of scaling."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.model.model import K2Model
from engine.progress import progress
from engine.text.shards import TokenShards
from engine.text.tokenizer import K2Tokenizer
from nodes.extend import curves, passkey
from nodes.extend.schema import Parameters


@dataclass(frozen=True)
class Measured:
    """The loss curve and the passkey score, by scaling (none, linear, yarn)."""

    curves: dict[str, curves.Curve]
    passkeys: dict[str, passkey.Score]


def measure(models: dict[str, K2Model], shards: TokenShards, tokenizer: K2Tokenizer, p: Parameters) -> Measured:
    """Measure each scaling on the same held-out windows and probes at the extended length, without training there."""
    length = p.extended_length
    windows = shards.split("validation").eval_windows(length, None, ["natural"], p.curves.windows)
    probes = passkey.probes(tokenizer, windows.tokens, length, p.passkey, p.seed)
    measured = Measured({}, {})
    with progress("extend: curves", 2 * len(models)) as bar:
        for name, scaled in models.items():
            measured.curves[name] = curves.curve(scaled, windows, p.curves.buckets, p.dtype)
            bar.advance(1, scaling=name)
            measured.passkeys[name] = passkey.ask(scaled, probes, p.dtype)
            bar.advance(1, scaling=name)
    return measured


def write(measured: Measured, p: Parameters, directory: Path) -> None:
    """Write length_curves.json, length_curves.png and passkey.json."""
    length = p.extended_length
    content = {
        "length": length,
        "trained_length": p.sequence_length,
        "positions": curves.ends(length, p.curves.buckets),
        "nats_per_token": measured.curves,
    }
    (directory / "length_curves.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    keys = {name: asdict(score) for name, score in measured.passkeys.items()}
    (directory / "passkey.json").write_text(json.dumps(keys, indent=2) + "\n", encoding="utf-8")
    curves.draw(measured.curves, length, p.sequence_length, directory / "length_curves.png")


def figures(measured: Measured, p: Parameters) -> dict[str, float | int | str]:
    """Return the headline metrics: loss past and within the trained length, and the passkey scores, by scaling."""
    out: dict[str, float | int | str] = {"context": p.extended_length, "trained_length": p.sequence_length}
    for name, values in measured.curves.items():
        out[f"loss_beyond_{name}"] = curves.beyond(values, p.extended_length, p.sequence_length)
        out[f"loss_within_{name}"] = curves.within(values, p.extended_length, p.sequence_length)
    for name, score in measured.passkeys.items():
        out[f"passkey_accuracy_{name}"] = score.accuracy
        out[f"passkey_token_accuracy_{name}"] = score.token_accuracy
        out[f"passkey_nats_{name}"] = score.nats_per_token
    return out
