"""Share the sampling among ranks: each draws completions of some of the prompts, and all get all of them.

A prompt's draws depend on its number alone, so the ranks draw what one process would, except where a logit's last bits,
which depend on the rows that are multiplied together, decide between two tokens.
"""

from collections.abc import Sequence

from engine.model.model import K2Model
from engine.parallel import data
from engine.parallel.data import ALONE, Ranks
from engine.parallel.mesh import mesh
from engine.rollout.generate import Completion, Constraint, generate
from engine.training.batches import own


def sharing() -> Ranks:
    """Return this process's place among those that share the sampling: all ranks, if each holds the whole model.

    Ranks that hold parts of one model have to read the same rows together, so each of them draws everything.
    """
    return ALONE if mesh().cut else data.ranks()


def generate_shared(
    model: K2Model,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float,
    seed: int,
    stop_id: int,
    constraint: Constraint | None = None,
    ranks: Ranks = ALONE,
) -> list[Completion]:
    """Return what `generate` does, drawn by `ranks` together: all of them call this with the same arguments."""
    mine = own(len(prompts), ranks)
    drawn = generate(
        model, prompts[mine.start : mine.stop], max_new_tokens, temperature, seed, stop_id, constraint, mine.start
    )
    return drawn if ranks.size == 1 else [completion for share in data.from_all(drawn) for completion in share]
