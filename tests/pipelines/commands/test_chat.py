"""The dialogue of `make chat`, with a tiny model and with scripted turns."""

import subprocess
import sys

import pytest

from engine.model.config import K2Config
from engine.model.model import K2Model
from engine.text import bpe
from engine.text.chat import encode_chat
from engine.text.tokenizer import K2Tokenizer
from engine.toolworld.messages import assistant, tool_call
from pipelines.commands.chat import HELP, Chat, Toolbox


@pytest.fixture(scope="module")
def tok(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    text = ["You are Kimi, an AI assistant created by Moonshot AI. What is 4-1-7? system user assistant " * 3]
    bpe.save(bpe.train(text, 300, 20, 1), directory, 512)
    return K2Tokenizer.load(directory)


@pytest.fixture(scope="module")
def model():
    return K2Model(
        K2Config(
            vocab_size=300, hidden_size=16, intermediate_size=32, moe_intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2, q_lora_rank=8, kv_lora_rank=8, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8,
            n_routed_experts=2, num_experts_per_tok=1, n_shared_experts=1, first_k_dense_replace=1,
            routed_scaling_factor=1.0, max_position_embeddings=256,
        ),
        0,
    )  # fmt: skip


def talk(model, tok, **options):
    output: list[str] = []
    return Chat(model, tok, max_new_tokens=12, say=output.append, **options), output


def scripted(monkeypatch, tok, *turns):
    """Let the model write these assistant messages one after the other."""
    remaining = list(turns)

    def stream(model, ids, room, temperature, seed, stop):
        dialogue, mask = encode_chat(tok, [{"role": "user", "content": "x"}, remaining.pop(0)])
        yield from [i for i, trained in zip(dialogue, mask, strict=True) if trained and i != stop]

    monkeypatch.setattr("engine.rollout.generate.stream", stream)


def test_a_dialogue_repeats_with_its_seed_and_is_remembered(model, tok):
    first, output = talk(model, tok, seed=3)
    again, output_again = talk(model, tok, seed=3)
    for chat in (first, again):
        chat.hear("What is 4-1-7?")
        chat.hear("Why?")
    assert output == output_again
    assert [m["role"] for m in first.messages] == ["user", "assistant", "user", "assistant"]
    first.hear("/reset")
    assert first.messages == []
    first.hear("/system")
    assert first.messages == [{"role": "system", "content": ""}]


def test_plain_checkpoints_go_on_from_the_text(model, tok):
    chat, output = talk(model, tok, plain=True)
    chat.hear("What is")
    assert output[0] == "What is"
    assert len("".join(output)) > len("What is\n")
    assert chat.messages == []


def test_tool_calls_reach_the_world_and_are_shown(monkeypatch, model, tok):
    toolbox = Toolbox("bank", 1)
    owner = next(iter(toolbox.world.state["accounts"]))
    call = tool_call("get_account", f'{{"owner":"{owner}"}}', 0)
    scripted(monkeypatch, tok, assistant("One moment.", [call]), assistant("Here you are."))
    chat, output = talk(big(model), tok, toolbox=toolbox)
    chat.hear("How much is there?")
    shown = "".join(output)
    assert shown.startswith("One moment.\n")
    assert f'→ get_account {{"owner":"{owner}"}}' in shown
    assert '← {"owner":' in shown
    assert shown.endswith("Here you are.\n")
    assert [m["role"] for m in chat.messages] == ["system", "user", "assistant", "tool", "assistant"]


def big(model):
    from dataclasses import replace

    return K2Model(replace(model.config, max_position_embeddings=4096), 0)


def test_a_malformed_call_and_an_unknown_tool_are_reported(monkeypatch, model, tok):
    bad = tool_call("no_tool", "{not json", 0)
    scripted(monkeypatch, tok, assistant("", [bad]), assistant("Sorry."))
    chat, output = talk(big(model), tok)
    chat.hear("x")
    assert "(malformed: the arguments of 'functions.no_tool:0' are not a JSON object)" in "".join(output)
    assert "no such tool" in "".join(output)


def test_a_model_that_calls_for_ever_is_stopped(monkeypatch, model, tok):
    scripted(monkeypatch, tok, *[assistant("", [tool_call("no_tool", "{}", i)]) for i in range(20)])
    chat, output = talk(big(model), tok)
    chat.hear("x")
    assert "".join(output).count("→ no_tool") == 6


def test_oldest_exchanges_are_forgotten_and_too_long_a_message_is_refused(model, tok):
    chat, output = talk(model, tok)
    for _ in range(8):
        chat.hear("What is 4-1-7? What is 4-1-7? What is 4-1-7?")
    assert any("oldest exchange is forgotten" in part for part in output)
    before = len([m for m in chat.messages if m["role"] == "user"])
    output.clear()
    chat.hear("zq" * 400)
    assert "too long: the context holds 256 tokens" in "".join(output)
    assert len([m for m in chat.messages if m["role"] == "user"]) <= before


@pytest.mark.parametrize("text", ["/temperature hot", "/temperature -1", "/temperature"])
def test_a_bad_temperature_is_explained(model, tok, text):
    chat, output = talk(model, tok)
    chat.hear(text)
    assert "give a number from 0" in "".join(output)
    assert chat.temperature == 0.6
    chat.hear("/temperature 0")
    assert chat.temperature == 0.0
    chat.hear("/what")
    assert HELP in output[-1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--env", "smoke", "--checkpoint", "best"],
            "there is no checkpoint 'best': choose one of base, extended, sft, rl.",
        ),
        (["--env", "moon"], "there is no profile 'moon'"),
        (
            ["--env", "smoke", "--checkpoint", "base", "--tools", "bank"],
            "--tools needs a checkpoint that knows the chat",
        ),
    ],
)
def test_a_wrong_command_line_is_one_sentence(arguments, sentence):
    process = subprocess.run(
        [sys.executable, "-m", "pipelines.commands.chat", *arguments], capture_output=True, text=True, check=False
    )
    assert process.returncode == 1
    assert sentence in process.stderr
    assert "Traceback" not in process.stderr
