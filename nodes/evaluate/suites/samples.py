"""The same prompts for every checkpoint, decoded greedily: not a score, but what a reader looks at first."""

from typing import Final

from engine.model.model import K2Model
from engine.rollout.generate import generate
from engine.text.chat import encode_chat
from engine.text.tokenizer import K2Tokenizer
from nodes.evaluate.results import SuiteResult
from nodes.evaluate.schema import Parameters
from nodes.evaluate.suites.material import Material

TITLE: Final = "Samples"
ABOUT: Final = "The same prompts to every checkpoint, decoded greedily."


def run(model: K2Model, tok: K2Tokenizer, data: Material, p: Parameters) -> SuiteResult:
    """Continue texts as plain text and answer chats in the chat format; prompts too long for the model get ""."""
    settings = p.samples
    texts = [("Text to go on from", text, [tok.eos_id, *tok.encode(text)], tok.eos_id) for text in settings.texts]
    chats = [("Question in the chat format", text, _chat(tok, text), tok.im_end_id) for text in settings.chats]
    samples = []
    for kind, prompt, ids, stop in texts + chats:
        response = ""
        if len(ids) + settings.max_new_tokens <= model.config.max_position_embeddings:
            completion = generate(model, [ids], settings.max_new_tokens, 0.0, p.seed, stop)[0]
            response = visible(tok.decode([token for token in completion.tokens if token != stop]))
        samples.append({"kind": kind, "prompt": prompt, "response": response})
    return SuiteResult((), {}, {"samples": samples})


def visible(text: str) -> str:
    r"""Return `text` with control characters escaped, as in \x1b, since a model may write anything into a report."""
    return "".join(c if c in "\n\t" or c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _chat(tok: K2Tokenizer, text: str) -> list[int]:
    return encode_chat(tok, [{"role": "user", "content": text}], add_generation_prompt=True)[0]
