"""Verifiable sums of the evaluation split: pass rate sampled (which RL raises) and greedy."""

from collections.abc import Sequence
from typing import Final

from engine.errors import UserError
from engine.intervals import wilson
from engine.model.model import K2Model
from engine.rollout.passrate import Response, require_room, sample_responses
from engine.rollout.verifiable import available, items
from engine.text.tokenizer import K2Tokenizer
from nodes.evaluate.results import Row, SuiteResult
from nodes.evaluate.schema import Parameters
from nodes.evaluate.suites.material import Material

TITLE: Final = "Arithmetic"
ABOUT: Final = (
    "Sums that no training stage has seen, in the chat format, judged by reasoning-gym's own verifier; an answer "
    "without an end is wrong. Sampled: one answer a question, the rate that reinforcement learning raises. "
    "Checkpoints before fine-tuning have never seen the chat format."
)


def run(model: K2Model, tok: K2Tokenizer, data: Material, p: Parameters) -> SuiteResult:
    """Return the share of sums answered correctly, sampled and greedy, with Wilson intervals."""
    settings = p.arithmetic
    have = available(settings.task, "evaluation")
    if settings.prompts > have:
        raise UserError(
            f"parameters/evaluate.yml: evaluate.arithmetic.prompts is {settings.prompts}, but the task's evaluation "
            f"split holds {have} sums: lower it or widen evaluate.arithmetic.task."
        )
    prompts = items(settings.task, "evaluation", settings.prompts, p.seed)
    require_room(model.config, tok, prompts, settings.max_new_tokens, "evaluate.arithmetic.max_new_tokens")
    rows, outcomes, lengths = [], {}, {}
    for name, temperature in (("sampled", settings.temperature), ("greedy", 0.0)):
        answers = sample_responses(
            model, tok, prompts, samples=1, temperature=temperature, max_new_tokens=settings.max_new_tokens, seed=p.seed
        )
        scores = [answer.score for answer in answers]
        interval = wilson(round(sum(scores)), len(scores))
        metric = f"arithmetic/{name}"
        rows.append(Row(metric, name, interval.value, "share", "higher", len(scores), interval.low, interval.high))
        outcomes[metric] = [scores, [1.0] * len(scores)]
        lengths[f"unfinished_{name}"] = _unfinished(answers)
    return SuiteResult(tuple(rows), outcomes, dict(lengths))


def _unfinished(answers: Sequence[Response]) -> float:
    """Return the share of answers that were cut off."""
    return sum(answer.completion.truncated for answer in answers) / len(answers)
