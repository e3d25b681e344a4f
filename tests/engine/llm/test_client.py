import dataclasses
import json
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from engine.errors import UserError
from engine.llm import ChatRequest, LLMSettings, client
from engine.llm import http as llm_http
from tests.engine.llm.fake_server import fake_openai

REQUEST = ChatRequest((("system", "Be brief."), ("user", "Hello")), max_tokens=9, temperature=0.0, seed=3)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(llm_http, "_FIRST_WAIT_SECONDS", 0.001)


def openai(url, **more):
    return LLMSettings(provider="openai", base_url=url, model="m", **more)


def test_a_request_is_an_openai_chat_completion(monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    request = dataclasses.replace(REQUEST, json_schema='{"type": "object"}')
    with fake_openai(lambda body: (200, "hi")) as fake, client(openai(fake.url, api_key_env="MY_KEY")) as chat:
        reply = chat.chat(request)
    assert (reply.text, reply.finish_reason, reply.prompt_tokens, reply.completion_tokens) == ("hi", "stop", 7, 3)
    assert fake.paths == ["/v1/chat/completions"]
    body = fake.bodies[0]
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert (body["model"], body["max_tokens"], body["temperature"], body["seed"]) == ("m", 9, 0.0, 3)
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert "purpose" not in body
    assert fake.headers[0]["Authorization"] == "Bearer secret"


def test_the_key_may_come_from_a_file_and_is_not_shown_when_the_server_repeats_it(tmp_path, monkeypatch):
    (tmp_path / "key").write_text("hunter2\n")
    monkeypatch.delenv("MY_KEY", raising=False)
    monkeypatch.setenv("MY_KEY_FILE", str(tmp_path / "key"))
    with (
        fake_openai(lambda body: (401, {"error": "hunter2 is no key"})) as fake,
        client(openai(fake.url, api_key_env="MY_KEY")) as chat,
        pytest.raises(UserError, match=r"\*\*\* is no key.*environment variable MY_KEY, .*in MY_KEY_FILE") as error,
    ):
        chat.chat(REQUEST)
    assert fake.headers[0]["Authorization"] == "Bearer hunter2"
    assert "hunter2" not in str(error.value)


def test_the_same_request_is_sent_once_even_by_another_client(tmp_path):
    with fake_openai(lambda body: (200, "hi")) as fake:
        for expected in (False, True):
            with client(openai(fake.url), tmp_path) as chat:
                assert chat.chat(REQUEST).cached is expected
                assert chat.chat(REQUEST).cached
        assert len(fake.bodies) == 1


def test_without_a_cache_every_request_is_sent():
    with fake_openai(lambda body: (200, "hi")) as fake, client(openai(fake.url)) as chat:
        chat.chat(REQUEST)
        chat.chat(REQUEST)
    assert len(fake.bodies) == 2


def test_a_cache_file_cut_short_is_requested_again(tmp_path):
    with fake_openai(lambda body: (200, "hi")) as fake, client(openai(fake.url), tmp_path) as chat:
        chat.chat(REQUEST)
        (stored,) = tmp_path.rglob("*.json")
        stored.write_text(stored.read_text()[:40])
        assert not chat.chat(REQUEST).cached
        assert chat.chat(REQUEST).cached
    assert not list(tmp_path.rglob("*.part"))


def test_the_cache_can_be_read_by_people(tmp_path):
    with fake_openai(lambda body: (200, "hi")) as fake, client(openai(fake.url), tmp_path) as chat:
        chat.chat(REQUEST)
    (stored,) = tmp_path.rglob("*.json")
    record = json.loads(stored.read_text())
    assert record["reply"]["text"] == "hi"
    assert record["request"]["messages"][1] == ["user", "Hello"]


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "messages": st.lists(st.tuples(st.sampled_from(["user", "system"]), st.text(max_size=5))).map(tuple),
            "max_tokens": st.integers(1, 99),
            "temperature": st.floats(0, 2),
            "seed": st.integers(0, 99),
            "json_schema": st.text(max_size=5),
        },
    )
)
def test_two_requests_share_a_key_only_if_they_are_the_same(changes):
    other = dataclasses.replace(REQUEST, **changes)
    assert (other.key("m") == REQUEST.key("m")) == (other == REQUEST)
    assert REQUEST.key("m") != REQUEST.key("another model")


def test_an_overloaded_server_gets_the_request_again():
    answers = iter([(503, {}), (429, {}), (200, "at last")])
    with fake_openai(lambda body: next(answers)) as fake, client(openai(fake.url, retries=2)) as chat:
        assert chat.chat(REQUEST).text == "at last"
    assert len(fake.bodies) == 3


def test_an_unreachable_url_names_parameter_and_remedy():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with client(openai(url, retries=1), where="rephrase.model.llm") as chat, pytest.raises(UserError) as error:
            chat.chat(REQUEST)
    assert "rephrase.model.llm.base_url" in str(error.value)
    assert url in str(error.value)
    assert "start the server" in str(error.value)


@pytest.mark.parametrize(("status", "says"), [(401, "OPENAI_API_KEY"), (404, "/v1"), (418, "HTTP 418")])
def test_a_refusal_names_the_remedy_and_is_not_repeated(status, says):
    with fake_openai(lambda body: (status, {"error": "no"})) as fake, client(openai(fake.url)) as chat:
        with pytest.raises(UserError, match=says):
            chat.chat(REQUEST)
        assert len(fake.bodies) == 1


MALFORMED = [
    {"hello": 1},
    {"choices": []},
    {"choices": ["a"]},
    {"choices": [{"message": {"content": 5}}]},
    {"choices": [{"message": {"content": ["a"]}}]},
    {"choices": [{"message": {"content": "a"}}], "usage": [1]},
    [1],
    b"",
    b"<html>",
    b"\xff\xfe\x00",
    b'{"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": Infinity}}',
    b'{"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": "many"}}',
    b"[" * 100_000,
    b'{"choices": ' + b"9" * 5000 + b"}",
]


@pytest.mark.parametrize("answer", MALFORMED, ids=lambda answer: str(answer)[:40])
def test_a_server_that_is_no_language_model_is_named(answer):
    with (
        fake_openai(lambda body: (200, answer)) as fake,
        client(openai(fake.url)) as chat,
        pytest.raises(UserError, match="does not answer as OpenAI") as error,
    ):
        chat.chat(REQUEST)
    assert len(str(error.value)) < 500


def test_half_a_surrogate_pair_in_a_reply_becomes_a_replacement_character(tmp_path):
    with fake_openai(lambda body: (200, "a\ud83d \ud83d\ude00")) as fake, client(openai(fake.url), tmp_path) as chat:
        assert [chat.chat(REQUEST).text for _ in range(2)] == ["a\N{REPLACEMENT CHARACTER} \N{GRINNING FACE}"] * 2


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_no_redirect_takes_the_key_to_another_server(monkeypatch, status, host):
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    with fake_openai(lambda body: (200, "caught")) as other, fake_openai(lambda body: (status, {})) as fake:
        port = other.url.removesuffix("/v1").rpartition(":")[2]
        fake.location = f"http://user:pass@{host}:{port}/v1/chat/completions?key=sk-very-secret"
        with (
            client(openai(fake.url, api_key_env="MY_KEY"), where="rephrase.llm") as chat,
            pytest.raises(UserError, match="rephrase.llm.base_url: .* redirects to") as error,
        ):
            chat.chat(REQUEST)
        assert not other.headers
    assert f"redirects to http://{host}:{port}/v1/chat/completions," in str(error.value)
    assert "secret" not in str(error.value)
    assert "pass" not in str(error.value)


@pytest.mark.parametrize("location", ["", "http://[", "/v1/", "file:///etc/passwd"])
def test_a_redirect_to_nowhere_is_a_sentence(location):
    with fake_openai(lambda body: (302, {})) as fake:
        fake.location = location
        with client(openai(fake.url)) as chat, pytest.raises(UserError, match="redirects to"):
            chat.chat(REQUEST)


@pytest.mark.parametrize("status", [200, 401, 500])
def test_a_key_that_the_server_repeats_is_masked(monkeypatch, status):
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    answer = b"x" * 150 + b" bad key: sk-very-secret given, have sk-very-secret"
    with (
        fake_openai(lambda body: (status, answer)) as fake,
        client(openai(fake.url, api_key_env="MY_KEY", retries=0)) as chat,
        pytest.raises(UserError) as error,
    ):
        chat.chat(REQUEST)
    assert "bad key: ***" in str(error.value)
    assert "sk-very" not in str(error.value)


@pytest.mark.parametrize(("key", "sent"), [("  abc\n", "Bearer abc"), ("", None)])
def test_white_space_around_a_key_is_not_sent(monkeypatch, key, sent):
    monkeypatch.setenv("MY_KEY", key)
    with fake_openai(lambda body: (200, "hi")) as fake, client(openai(fake.url, api_key_env="MY_KEY")) as chat:
        chat.chat(REQUEST)
    assert fake.headers[0].get("Authorization") == sent


@pytest.mark.parametrize("key", ["two\nlines", "caf\N{LATIN SMALL LETTER E WITH ACUTE}"])
def test_a_key_that_no_header_can_carry_is_refused_unseen(monkeypatch, key):
    monkeypatch.setenv("MY_KEY", key)
    settings = openai("http://127.0.0.1:9/v1", api_key_env="MY_KEY")
    with client(settings) as chat, pytest.raises(UserError, match="MY_KEY") as error:
        chat.chat(REQUEST)
    assert key not in str(error.value)


@pytest.mark.parametrize(
    "url", ["localhost:8000/v1", "nothing", "file:///etc/passwd", "http://", "http://a:b/v1", "http://[/v1"]
)
def test_an_address_that_is_none_is_refused_with_the_parameters(url):
    with pytest.raises(ValidationError, match="base_url is not an address like"):
        openai(url)


@pytest.mark.parametrize("url", ["http://me:sk-very-secret@host/v1", "http://sk-very-secret@host:port/v1"])
def test_credentials_in_an_address_are_refused_unseen(url):
    with pytest.raises(ValidationError, match="base_url holds a user name or a password") as error:
        openai(url)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("given", [{}, {"base_url": "http://host/v1"}, {"model": "m"}])
def test_openai_needs_an_address_and_a_model(given):
    with pytest.raises(ValidationError, match="needs base_url .* and model"):
        LLMSettings(provider="openai", **given)


def test_template_answers_from_the_function_given():
    with client(LLMSettings(provider="template"), template=lambda request: request.messages[-1][1].upper()) as chat:
        assert chat.chat(REQUEST).text == "HELLO"
    with pytest.raises(UserError, match="no template"), client(LLMSettings(provider="template")):
        pass
