"""The tables that `make scale` prints, at most 100 columns wide."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from engine.scale.calibration import calibrated
from engine.scale.fit import fullest, host_bytes
from engine.scale.holdings import held, part_at
from engine.scale.machines import machines
from engine.scale.memory import memory, savings_in_turn
from engine.scale.step import Run, Step, run, seconds_of
from engine.scale.training import Training
from engine.scale.weights import BLOCKS, weights

if TYPE_CHECKING:
    from rich.table import Table

GB = 1e9


def heading(profile: str, training: Training) -> str:
    """Return two lines that say what is planned."""
    t = training
    gpus = f"{t.grid.ranks:,} {'GPU' if t.grid.ranks == 1 else 'GPUs'}"
    batch = f"{t.micro_batches:,} micro-batches of {t.rows} × {t.sequence_length:,} tokens"
    return f"pre-training of profile {profile} on {gpus}: {t.layout}, dp {t.grid.dp}\na replica's step: {batch}"


def tables(training: Training, ends: Sequence[Step], tokens: float) -> Iterator["Table"]:
    """Yield all tables of a training on `tokens`, whose steps at the fast and the slow end are `ends`."""
    yield _parameters(training)
    yield _memory(training)
    yield _activations(training)
    if training.grid.ranks > 1:
        yield _messages(training)
    yield _time(training, ends, tokens)


def _table(title: str, *columns: str, left: int = 1) -> "Table":
    """Return an empty table whose first `left` columns hold words and the others figures."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < left else "right")
    return table


def _parameters(training: Training) -> "Table":
    """Return the parameters by block: counted once, on the rank that holds the most, and in all copies."""
    t, table = training, _table("parameters", "block", "counted once", "fullest rank holds", "copies of each")
    once, most, copies = dict.fromkeys(BLOCKS, 0), dict.fromkeys(BLOCKS, 0), dict.fromkeys(BLOCKS, 0)
    for weight in weights(t.config):
        once[weight.block] += weight.numbers
    rank = fullest(memory(t)).rank
    for stage in range(t.grid.pp):
        for weight in held(t.config, part_at(t.config, t.layout, t.grid, stage)):
            copies[weight.block] += weight.numbers * t.grid.dp * t.grid.ep
            if stage == t.grid.coordinates(rank)["pp"]:
                most[weight.block] += weight.numbers
    for block in BLOCKS:
        if once[block]:
            table.add_row(block, f"{once[block]:,}", f"{most[block]:,}", f"{copies[block] // once[block]:,}")
    table.add_row("sum", f"{sum(once.values()):,}", f"{sum(most.values()):,}", "", style="bold")
    return table


def _memory(training: Training) -> "Table":
    """Return the bytes of the fullest rank and the mean over all, by kind."""
    ranks = memory(training)
    one, count = fullest(ranks), len(ranks)
    table = _table(f"memory a rank, GB of {training.gpu.memory / GB:,.0f}", "kind", f"rank {one.rank}", "mean")
    kinds = ["weights", "gradients", "optimizer", "activations", "head", "working", "visiting", "total"]
    kinds = [kind for kind in kinds if any(getattr(each, kind) for each in ranks)]
    names = {
        "optimizer": "optimizer states",
        "head": "around the head",
        "working": "layer at work",
        "visiting": "optimizer states in its step",
    }
    for kind in kinds:
        mean = sum(getattr(each, kind) for each in ranks) / count
        bold = "bold" if kind == "total" else None
        table.add_row(names.get(kind, kind), f"{getattr(one, kind) / GB:,.2f}", f"{mean / GB:,.2f}", style=bold)
    mean = sum(each.replicated for each in ranks) / count
    table.add_row("weights, gradients in copies", f"{one.replicated / GB:,.2f}", f"{mean / GB:,.2f}")
    host = host_bytes(training, ranks)
    if host:
        table.add_row("on the host", f"{one.host / GB:,.2f}", f"{sum(each.host for each in ranks) / count / GB:,.2f}")
    return table


def _activations(training: Training) -> "Table":
    """Return what the fullest rank keeps for backwards with one more switch in each row, and which are set."""
    on = training.layout
    given = {f"recompute {name}" for name in on.recompute} | {f"offload {name}" for name in on.offload}
    given |= {"fp8_storage"} if on.fp8_storage else set()
    table = _table("activations, one switch more in each row", "with", "GB", "set here")
    for name, most in savings_in_turn(training):
        table.add_row(name, f"{most / GB:,.2f}", "yes" if name in given else "")
    return table


def _messages(training: Training) -> "Table":
    """Return what the rank that sends the most sends in a step, and the seconds if nothing else went over the links."""
    table = _table("messages a rank sends in a step", "kind", "ranks", "GB", "seconds")
    for message in max(training.messages, key=lambda own: sum(one.bytes for one in own)):
        size = f"{message.bytes / GB:,.2f}"
        table.add_row(message.name, str(message.size), size, f"{seconds_of(training, message):,.2f}")
    return table


def _time(training: Training, ends: Sequence[Step], tokens: float) -> "Table":
    """Return the seconds of a step, and what follows, as intervals."""
    low, high = calibrated().shares
    table = _table(f"time, at {low:.0%} to {high:.0%} of the peak", "figure", "fast end", "slow end")
    runs: list[Run] = [run(training, one.seconds, tokens) for one in ends]
    busiest = ends[0].work.index(max(ends[0].work))
    rows = [
        ("forwards and backwards, s", [f"{one.pipeline:,.2f}" for one in ends]),
        ("of it bubble", [f"{one.bubble:.1%}" for one in ends]),
        (f"busiest rank (pp {busiest}) over the mean", [f"{one.imbalance:.2f}" for one in ends]),
        ("exchange of gradients and weights, s", [f"{one.exchange:,.2f}" for one in ends]),
        ("Newton–Schulz, s", [f"{one.newton_schulz:,.2f}" for one in ends]),
        ("optimizer states from and to the host, s", [f"{one.host:,.2f}" for one in ends]),
        ("step, s", [f"{one.step:,.2f}" for one in runs]),
        ("tokens/s", [f"{one.tokens_per_second:,.0f}" for one in runs]),
        ("tokens/s a GPU", [f"{one.tokens_per_second / training.grid.ranks:,.0f}" for one in runs]),
        ("model FLOPs utilisation", [f"{one.mfu:.1%}" for one in runs]),
        (f"days for {tokens / 1e12:,.4g}T tokens", [f"{one.days:,.1f}" for one in runs]),
        (f"at ${machines().dollars_per_gpu_hour:.2f} a GPU-hour", [f"${one.dollars / 1e6:,.2f}M" for one in runs]),
    ]
    for name, figures in rows:
        table.add_row(name, *figures, style="bold" if name == "step, s" else None)
    return table
