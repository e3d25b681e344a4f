"""The extension's report: loss by position and passkey probe under each way of scaling."""

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
    """By scaling (none, linear, yarn): the loss curve and what became of the passkeys."""

    curves: dict[str, curves.Curve]
    passkeys: dict[str, passkey.Found]


def measure(models: dict[str, K2Model], shards: TokenShards, tokenizer: K2Tokenizer, p: Parameters) -> Measured:
    """Read the same held-out windows and probes at the extended length under every scaling, without training there."""
    length = p.extended_length
    windows = shards.split("validation").eval_windows(length, None, ["natural"], p.curves.windows)
    asked = passkey.probes(tokenizer, windows.tokens, length, p.passkey, p.seed)
    found = Measured({}, {})
    with progress("extend: curves", 2 * len(models)) as bar:
        for name, scaled in models.items():
            found.curves[name] = curves.curve(scaled, windows, p.curves.buckets, p.dtype)
            bar.advance(1, scaling=name)
            found.passkeys[name] = passkey.ask(scaled, asked, p.dtype)
            bar.advance(1, scaling=name)
    return found


def write(measured: Measured, p: Parameters, directory: Path) -> None:
    """length_curves.json, length_curves.png and passkey.json."""
    length = p.extended_length
    content = {
        "length": length,
        "trained_length": p.sequence_length,
        "positions": curves.ends(length, p.curves.buckets),
        "nats_per_token": measured.curves,
    }
    (directory / "length_curves.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    keys = {name: asdict(found) for name, found in measured.passkeys.items()}
    (directory / "passkey.json").write_text(json.dumps(keys, indent=2) + "\n", encoding="utf-8")
    curves.draw(measured.curves, length, p.sequence_length, directory / "length_curves.png")


def figures(measured: Measured, p: Parameters) -> dict[str, float | int | str]:
    """The headline metrics: loss past and within the trained length, and the passkeys, by scaling."""
    out: dict[str, float | int | str] = {"context": p.extended_length, "trained_length": p.sequence_length}
    for name, values in measured.curves.items():
        out[f"loss_beyond_{name}"] = curves.beyond(values, p.extended_length, p.sequence_length)
        out[f"loss_within_{name}"] = curves.within(values, p.extended_length, p.sequence_length)
    for name, found in measured.passkeys.items():
        out[f"passkey_accuracy_{name}"] = found.accuracy
        out[f"passkey_token_accuracy_{name}"] = found.token_accuracy
        out[f"passkey_nats_{name}"] = found.nats_per_token
    return out
