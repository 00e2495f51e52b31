"""The client of OpenAI-compatible servers: what it sends, when it asks again, and what it says at last."""

import asyncio
import time

import numpy as np
import pytest

from tessera.config import UserError
from tessera.pretrained import chat
from tessera.pretrained.answers import Answer
from tessera.pretrained.chat import KEY_VARIABLE, ChatClient, Question, Retry
from tiny.chat_server import ChatServer, completion, question_of

pytest.importorskip("openai")

IMAGE = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
QUICK = Retry(first_pause=0.01, timeout=0.7, attempts=3)
ONCE = Retry(attempts=1)


def echo(body, number):
    return 200, completion(f" {question_of(body)}!\n")


def test_what_a_server_is_sent(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "a secret")
    with ChatServer(echo) as server:
        client = ChatClient(server.address, "m")
        assert client.ask(Question("dog"), max_tokens=3, temperature=0.5, seed=7) == ("dog!", False)
        assert client.ask(Question("cat", (IMAGE, IMAGE)), max_tokens=3, temperature=0) == ("cat!", False)
    (path, plain), (_, shown) = server.requests
    assert path == "/v1/chat/completions"
    expected = {"model": "m", "max_tokens": 3, "temperature": 0.5, "seed": 7}
    assert plain == expected | {"messages": [{"role": "user", "content": "dog"}]}
    assert "seed" not in shown
    parts = shown["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["image_url", "image_url", "text"]
    assert parts[0]["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
    assert server.keys == {"Bearer a secret"}


def test_answers_arrive_with_their_keys_and_no_more_are_asked_at_once_than_wanted():
    def slow(body, number):
        time.sleep(0.02)
        return echo(body, number)

    with ChatServer(slow) as server:
        asked = ((number, Question(f"q{number}")) for number in range(20))
        told = dict(ChatClient(server.address, "m", concurrency=4).ask_all(asked, max_tokens=1))
    assert told == {number: f"q{number}!" for number in range(20)}
    assert 1 < server.most <= 4


@pytest.mark.parametrize(
    "bad",
    [
        (503, {"error": {"message": "busy"}}),
        (429, {"error": {"message": "slow down"}}),
        (200, b"<html>no</html>"),
        (200, {"choices": []}),
        (200, completion("  \n")),
        (200, completion(None)),
        None,
    ],
)
def test_a_server_without_a_usable_answer_is_asked_again(bad):
    with ChatServer(lambda body, number: bad if number < 3 else echo(body, number)) as server:
        assert ChatClient(server.address, "m", retry=QUICK).ask(Question("dog"), max_tokens=1)[0] == "dog!"
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("header", "pause"), [("3", 3.0), ("0", 0.01), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.01), ("99", 30.0)]
)
def test_a_busy_server_decides_how_long_to_wait(monkeypatch, header, pause):
    pauses = []

    async def sleep(seconds, sleep=asyncio.sleep):
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(chat.asyncio, "sleep", sleep)
    busy = (429, {"error": {"message": "slow down"}}, {"Retry-After": header})
    with ChatServer(lambda body, number: busy if number == 1 else echo(body, number)) as server:
        assert ChatClient(server.address, "m", retry=QUICK).ask(Question("dog"), max_tokens=1)[0] == "dog!"
    assert [seconds for seconds in pauses if seconds >= 0.01] == [pause]


def test_a_server_that_stalls_is_asked_again():
    def stalls(body, number):
        if number == 1:
            time.sleep(1.5)
        return echo(body, number)

    with ChatServer(stalls) as server:
        assert ChatClient(server.address, "m", retry=QUICK).ask(Question("dog"), max_tokens=1)[0] == "dog!"


@pytest.mark.parametrize(
    ("reply", "message", "asked"),
    [
        ((200, {"nonsense": 1}), "no chat completion of text", 3),
        ((200, completion("")), "an empty answer", 3),
        ((200, b"<html>"), "is this its address up to /v1", 3),
        ((503, {"error": {"message": "busy"}}), "busy.*What is done is kept", 3),
        ((404, {"error": {"message": "no such model m"}}), "no such model m.*What is done is kept", 1),
    ],
)
def test_what_is_said_at_last(reply, message, asked):
    with ChatServer(lambda body, number: reply) as server, pytest.raises(UserError, match=message) as error:
        ChatClient(server.address, "m", retry=QUICK).ask(Question("dog"), max_tokens=1)
    assert "\n" not in str(error.value)
    assert server.address in str(error.value)
    assert len(server.requests) == asked


def test_answers_before_an_error_are_given_out():
    with ChatServer(lambda body, number: echo(body, number) if number < 3 else (404, {})) as server:
        asked = ((number, Question("q")) for number in range(9))
        answers = ChatClient(server.address, "m", concurrency=1).ask_all(asked, max_tokens=1)
        assert [next(answers)[0], next(answers)[0]] == [0, 1]
        with pytest.raises(UserError, match="404"):
            next(answers)


def test_leaving_early_ends_what_is_under_way():
    with ChatServer(lambda body, number: echo(body, number) if number == 1 else time.sleep(30)) as server:
        answers = ChatClient(server.address, "m", concurrency=2).ask_all((n, Question("q")) for n in range(9))
        assert next(answers)[1] == "q!"
        began = time.monotonic()
        answers.close()
        assert time.monotonic() - began < 5


def test_no_server_and_bad_addresses():
    with ChatServer(echo) as server:
        pass
    with pytest.raises(UserError, match=r"Connection error.*What is done is kept"):
        ChatClient(server.address, "m", retry=ONCE).ask(Question("dog"))
    with pytest.raises(UserError, match="Connection error"):
        ChatClient(server.address, retry=ONCE).find_model()
    with pytest.raises(UserError, match="is no address; give its base URL"):
        ChatClient("localhost:8000", "m")
    with pytest.raises(UserError, match="concurrency is 0; give at least 1"):
        ChatClient(server.address, "m", concurrency=0)
    with pytest.raises(UserError, match="attempts is 0; give at least 1"):
        Retry(attempts=0)


def test_models_of_a_server():
    models = [{"id": name, "object": "model", "created": 1, "owned_by": "us"} for name in ("a", "b")]
    with ChatServer(echo) as one, ChatServer(echo, models) as two:
        assert ChatClient(one.address).find_model() == ("stub", "lab/stub")
        assert ChatClient(two.address, "b").find_model() == ("b", "b")
        with pytest.raises(UserError, match="has 2 models; name one: a, b"):
            ChatClient(two.address).find_model()
        with pytest.raises(UserError, match="has no model 'c'; it has a, b"):
            ChatClient(two.address, "c").find_model()


def test_half_a_character_becomes_a_question_mark():
    with ChatServer(lambda body, number: (200, completion("cat \ud83d"))) as server:
        assert ChatClient(server.address, "m").ask(Question("dog"))[0] == "cat ?"


def reply_by_question(replies):
    """A server that answers each question by its own list of replies, the last one again and again."""
    counts = {}

    def reply(body, number):
        name = question_of(body)
        counts[name] = counts.get(name, 0) + 1
        own = replies.get(name, [(200, completion("A fox sits."))])
        return own[min(counts[name], len(own)) - 1]

    return reply, counts


def choice(content, reason="stop", **more):
    answer = completion(content)
    answer["choices"][0]["message"] |= more
    answer["choices"][0]["finish_reason"] = reason
    return 200, answer


def test_one_question_that_a_server_does_not_answer_is_set_aside_with_the_reason():
    fine = (200, completion("A fox sits."))
    replies = {
        "null": [choice(None)],
        "empty": [choice("")],
        "filter": [choice(None, "content_filter")],
        "refused": [choice(None, refusal="I can't")],
        "400": [(400, {"error": {"message": "bad image"}})],
        "413": [(413, b"<html>too large</html>")],
        "500": [(500, {"error": {"message": "CUDA error"}})],
        "no choices": [(200, {"choices": []})],
        "error": [(200, {"choices": None, "error": {"code": 502, "message": "Provider returned 502"}})],
        "later": [choice("I'm sorry, I can't help"), fine],
        "cut": [choice("A fox sits. It lo", "length")],
        "parts": [choice([{"type": "text", "text": "A fox sits."}])],
        "thinks": [choice("<think>hm", "length")],
    }
    reply, counts = reply_by_question(replies)
    with ChatServer(reply) as server:
        client = ChatClient(server.address, "m", concurrency=3, retry=QUICK)
        asked = [(name, Question(name)) for name in (*replies, *"abcdef")]
        told = dict(client.caption_all(asked, max_tokens=9, temperature=0))
    assert {told[name] for name in ("a", "f", "later", "parts")} == {Answer("A fox sits.")}
    assert told["cut"] == Answer("A fox sits.", "cut")
    reasons = {
        "null": "its answer is no chat completion of text", "empty": "an empty answer", "400": "bad image",
        "filter": "the server's content filter", "refused": "a refusal", "413": "Error code: 413", "500": "CUDA error",
        "no choices": "it has no choices", "error": "its answer is an error: Provider returned 502",
        "thinks": "only reasoning",
    }  # fmt: skip
    for name, reason in reasons.items():
        assert told[name].text is None
        assert reason in told[name].note
        assert "ChatCompletion(" not in told[name].note
    assert (counts["400"], counts["413"], counts["500"], counts["empty"], counts["later"]) == (1, 1, 3, 3, 2)
    sampled = [
        (body.get("temperature"), body.get("seed")) for _, body in server.requests if question_of(body) == "empty"
    ]
    assert sampled == [(0, None), (0.7, 1), (0.7, 2)]


@pytest.mark.parametrize(
    ("reply", "asked"),
    [((404, {"error": {"message": "no model"}}), 1), ((401, {}), 1), ((503, {"error": {"message": "busy"}}), 8 * 3)],
)
def test_a_server_that_answers_no_question_stops_the_work(reply, asked):
    with ChatServer(lambda body, number: reply) as server:
        client = ChatClient(server.address, "m", concurrency=1, retry=QUICK)
        with pytest.raises(UserError, match="What is done is kept"):
            list(client.caption_all((n, Question("q")) for n in range(99)))
    assert len(server.requests) == asked


def test_a_model_that_refuses_everything_stops_the_work_too():
    with ChatServer(lambda body, number: (200, completion("I cannot see images."))) as server:
        client = ChatClient(server.address, "m", concurrency=8, retry=QUICK)
        with pytest.raises(UserError, match=r"a refusal .*I cannot see images"):
            list(client.caption_all((n, Question("q")) for n in range(200)))
    assert len(server.requests) < 400
