"""`make chat`: talk to a checkpoint in the terminal; tokens appear as they are sampled, tool calls as they are made.

    python -m pipelines.commands.chat --env laptop --checkpoint rl [--tools bank]

The base and extended checkpoints have never seen the chat format: they continue your text instead.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from engine.errors import UserError
from pipelines import graph
from pipelines.checkpoints import can_chat, checkpoints, dataset_of, last
from pipelines.errors import report_errors
from pipelines.stages_file import load_stages_file

if TYPE_CHECKING:
    from engine.model.model import K2Model
    from engine.text.chat import ParsedTurn
    from engine.text.tokenizer import K2Tokenizer

ROUNDS = 6
"""The most rounds of tool calls before the user's next turn."""
LEAST_ROOM = 16
"""The fewest tokens that must be left in the context for an answer."""
HELP = (
    "/reset forgets the dialogue, /system TEXT begins one under another system turn, "
    "/temperature N changes how freely it draws, /quit ends (so does Ctrl-D)"
)


class Toolbox:
    """Tools that the model may call: those of a domain's first application, on a world that keeps its state."""

    def __init__(self, domain: str, seed: int) -> None:
        from engine.toolworld.specs import choose_domains, load_tools
        from engine.toolworld.world import World

        name, application = next(iter(choose_domains([domain], "--tools")[domain].applications.items()))
        self.specs = [load_tools()[tool] for tool in list(application.tools)[:3]]
        self.application = name
        self.role = choose_domains([domain])[domain].role
        self.world: World = World(domain, seed)

    def introduce(self) -> str:
        """Return a text that lists the tools and the records, so that the user knows what to ask about."""
        tools = ", ".join(f"{spec.name}({', '.join(spec.parameters['properties'])})" for spec in self.specs)
        records = "\n".join(f"  {record}" for record in self.world.state[self.application].values())
        return f"tools: {tools}\nrecords:\n{records}"


class Chat:
    """One dialogue with one model; all output goes through `say`, which adds no line break."""

    def __init__(
        self,
        model: "K2Model",
        tok: "K2Tokenizer",
        *,
        plain: bool = False,
        toolbox: Toolbox | None = None,
        temperature: float = 0.6,
        max_new_tokens: int = 128,
        seed: int = 0,
        say: Callable[[str], object] = sys.stdout.write,
    ) -> None:
        self.model, self.tok, self.plain, self.toolbox = model, tok, plain, toolbox
        self.temperature, self.max_new_tokens, self.seed, self.say = temperature, max_new_tokens, seed, say
        self.draws = 0
        self.reset()

    def reset(self) -> None:
        """Forget the dialogue; the world of the tools stays as it is."""
        role = self.toolbox.role if self.toolbox else ""
        self.messages: list[dict[str, Any]] = (
            [{"role": "system", "content": f"You are a {role}. Use the tools."}] if role else []
        )

    def hear(self, text: str) -> None:
        """Act on a line that the user typed: a command, or a message to answer."""
        name, _, value = text.partition(" ")
        if name == "/reset":
            self.reset()
            self.say("forgotten\n")
        elif name == "/temperature":
            self._set_temperature(value)
        elif name == "/system":
            self.messages = [{"role": "system", "content": value}]
            self.say("a new dialogue under this system turn (sums were learnt under an empty one)\n")
        elif text.startswith("/"):
            self.say(HELP + "\n")
        elif self.plain:
            self._continue(text)
        elif text.strip():
            self._answer(text)

    def _set_temperature(self, value: str) -> None:
        try:
            temperature = float(value)
        except ValueError:
            temperature = -1.0
        if not 0 <= temperature <= 10:
            self.say("give a number from 0 (always the likeliest token) to 10, as in /temperature 0.6\n")
            return
        self.temperature = temperature

    def _continue(self, text: str) -> None:
        ids = [self.tok.eos_id, *self.tok.encode(text)]
        if len(ids) + LEAST_ROOM > self.model.config.max_position_embeddings:
            self.say(f"too long: the context holds {self.model.config.max_position_embeddings} tokens\n")
            return
        self.say(text)
        self._show(self._draw(ids, self.tok.eos_id))
        self.say("\n")

    def _answer(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})
        for _ in range(ROUNDS):
            ids = self._prompt()
            if ids is None:
                del self.messages[max(i for i, m in enumerate(self.messages) if m["role"] == "user") :]
                self.say(f"too long: the context holds {self.model.config.max_position_embeddings} tokens\n")
                return
            turn = self._turn(ids)
            self.messages.append(turn.message())
            if not turn.calls:
                return
            for call in self.messages[-1]["tool_calls"]:
                self._call(call)

    def _prompt(self) -> list[int] | None:
        """Return the dialogue's ids, without the oldest exchanges where it is too long; None if that does not help."""
        from engine.text.chat import encode_chat

        tools = [spec.openai() for spec in self.toolbox.specs] if self.toolbox else None
        while True:
            ids, _ = encode_chat(self.tok, self.messages, tools, add_generation_prompt=True)
            if len(ids) + LEAST_ROOM <= self.model.config.max_position_embeddings:
                return ids
            users = [place for place, message in enumerate(self.messages) if message["role"] == "user"]
            if len(users) < 2:
                return None
            del self.messages[users[0] : users[1]]
            self.say("(the context is full: the oldest exchange is forgotten)\n")

    def _turn(self, ids: list[int]) -> "ParsedTurn":
        """Sample one assistant turn and show its text as it comes; its calls are shown when they are made."""
        from engine.text.chat import parse_turn_ids
        from engine.text.special import TOOL_TOKENS

        marks = {self.tok.special(name) for name in TOOL_TOKENS}
        tokens: list[int] = []

        def text_only() -> Iterator[int]:
            calling = False
            for token in self._draw(ids, self.tok.im_end_id):
                tokens.append(token)
                calling = calling or token in marks
                if not calling:
                    yield token

        self._show(text_only())
        self.say("\n")
        turn = parse_turn_ids(self.tok, tokens)
        if turn.problems:
            self.say(f"(malformed: {'; '.join(turn.problems)})\n")
        return turn

    def _draw(self, ids: list[int], stop: int) -> Iterator[int]:
        from engine.rollout.generate import stream

        self.draws += 1
        room = min(self.max_new_tokens, self.model.config.max_position_embeddings - len(ids))
        return stream(self.model, ids, room, self.temperature, self.seed + self.draws, stop)

    def _show(self, tokens: Iterator[int]) -> None:
        from engine.text.tokenizer import StreamDecoder

        decoder = StreamDecoder(self.tok)
        for token in tokens:
            self.say(decoder.push(token))
        self.say(decoder.finish())

    def _call(self, call: dict[str, Any]) -> None:
        """Run one call on the world, show call and result, and add the result to the dialogue."""
        from engine.toolworld.messages import compact, parsed_arguments, tool_message

        function, arguments = call["function"], parsed_arguments(call)
        known = self.toolbox is not None and function["name"] in {spec.name for spec in self.toolbox.specs}
        if self.toolbox is None or not known:
            result = compact({"error": "no such tool"})
        elif arguments is None:
            result = compact({"error": "arguments are not JSON"})
        else:
            result = self.toolbox.world.call(function["name"], arguments).text()
        self.say(f"  → {function['name']} {function['arguments']}\n  ← {result}\n")
        self.messages.append(tool_message(call, result))


def main() -> None:
    """Load a checkpoint of a profile and talk until the user ends the dialogue."""
    with report_errors():
        parser = argparse.ArgumentParser(description="Talk to a checkpoint.")
        parser.add_argument("--env", default=None, help="profile")
        parser.add_argument("--checkpoint", default=last(), help=f"one of {', '.join(checkpoints())}")
        parser.add_argument("--tools", default=None, metavar="DOMAIN", help="give it tools, as of bank, shop or hotel")
        parser.add_argument("--temperature", type=float, default=0.6, help="0.6 is what Moonshot recommends for K2")
        parser.add_argument("--max-new-tokens", type=int, default=128)
        parser.add_argument("--seed", type=int, default=0, help="same seed and words, same answers")
        arguments = parser.parse_args()
        converse(start(arguments), arguments.checkpoint)


def start(arguments: argparse.Namespace) -> Chat:
    """Return the dialogue that the command line names. Raises UserError for an unknown or missing checkpoint."""
    dataset, plain = dataset_of(arguments.checkpoint), not can_chat(arguments.checkpoint)
    if arguments.tools and plain:
        fit = " or ".join(name for name in checkpoints() if can_chat(name))
        raise UserError(f"--tools needs a checkpoint that knows the chat format: {fit}, not {arguments.checkpoint}.")
    profile = load_stages_file().profile(arguments.env)
    tokenizer = graph.dataset(profile, "tokenizer").load()
    checkpoint = graph.dataset(profile, dataset).load()
    from engine.model.checkpoint import load_checkpoint
    from engine.text.tokenizer import K2Tokenizer

    return Chat(
        load_checkpoint(checkpoint),
        K2Tokenizer.load(tokenizer),
        plain=plain,
        toolbox=Toolbox(arguments.tools, arguments.seed) if arguments.tools else None,
        temperature=arguments.temperature,
        max_new_tokens=arguments.max_new_tokens,
        seed=arguments.seed,
        say=_write,
    )


def converse(chat: Chat, checkpoint: str) -> None:
    """Read lines from the terminal until its end or /quit."""
    kind = "continues your text" if chat.plain else "answers"
    _write(f"The {checkpoint} checkpoint {kind}. {HELP}.\n")
    if chat.toolbox:
        _write(chat.toolbox.introduce() + "\n")
    while True:
        try:
            text = input("\nyou> ")
        except (EOFError, KeyboardInterrupt):
            _write("\n")
            return
        if text.strip() == "/quit":
            return
        try:
            chat.hear(text)
        except KeyboardInterrupt:
            _write("\n(stopped)\n")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
