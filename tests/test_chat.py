import base64
import io
import json
import random

import numpy as np
import pytest
import soundfile
from chat_server import (
    KEY,
    completion,
    cut_off,
    dribbles,
    hangs_up,
    late,
    says,
    serve,
    status,
)

from speechdst import chat
from speechdst.chat import ChatEndpoint, ChatError, ChatUnavailable, Endpoint
from speechdst.data.dialogue import BadInput

ASK = [{"role": "user", "content": "well?"}]


@pytest.fixture
def server(monkeypatch):
    with serve(monkeypatch) as made:
        yield made


def test_asks_as_the_protocol_says(server):
    server.reply = lambda request: "Yes."
    assert server.client().complete(ASK, temperature=0.1, max_tokens=3) == "Yes."
    assert server.requests == [
        {"model": "test-model", "messages": ASK, "temperature": 0.1, "max_tokens": 3}]
    assert server.keys == [f"Bearer {KEY}"]


def test_every_failure_is_named_and_asked_again(server):
    server.faults = [
        status(500), status(503), status(429, Retry_After="7"), cut_off, says("<html>"),
        says("[" * 100_000), says({"error": "x"}), says({"choices": []}),
        says(completion(None)), says(completion("  ")), says(completion([{"type": "text"}])),
        says("x" * (chat.LARGEST + 1)), hangs_up, None]
    pauses = []
    client = server.client(attempts=14, pauses=pauses, backoff=0.5, longest_pause=6.5)
    assert client.complete(ASK) == "yes"
    assert client.sent == len(server.requests) == 14
    assert client.failures == {"http 500": 1, "http 503": 1, "http 429": 1, "connection": 2,
                               "malformed reply": 8}
    # Doubling with jitter, no shorter than asked for, no longer than allowed.
    assert len(pauses) == 13 and pauses[2] == 6.5 and max(pauses) <= 6.5
    assert 0.25 <= pauses[0] <= 0.5 <= pauses[1] <= 1 and all(p >= 3.25 for p in pauses[4:])


def test_time_is_up(server):
    server.faults = [late(0.5), dribbles(2.0), None]
    client = server.client(timeout=0.2)
    assert client.complete(ASK) == "yes" and client.failures == {"timeout": 2}


def test_attempts_are_bounded_and_the_last_failure_is_named(server):
    server.faults = [status(500)] * 9
    client = server.client(attempts=3)
    with pytest.raises(ChatError, match=r"http 500: 'oh no', attempt 3") as caught:
        client.complete(ASK)
    assert len(server.requests) == 3 and caught.value.kind == "http 500"
    assert not isinstance(caught.value, ChatUnavailable)


@pytest.mark.parametrize("code, hopeless", [(401, True), (404, True), (307, True), (400, False)])
def test_what_cannot_get_better_is_not_asked_again(server, code, hopeless):
    server.faults = [status(code, Location="http://127.0.0.1:9/elsewhere")]
    with pytest.raises(ChatError, match=f"http {code}") as caught:
        server.client().complete(ASK)
    assert len(server.requests) == 1 and isinstance(caught.value, ChatUnavailable) == hopeless


def test_calls_are_bounded(server):
    client = server.client(calls=3, attempts=2)
    server.faults = [status(500)]
    client.complete(ASK)
    client.complete(ASK)
    with pytest.raises(ChatUnavailable, match="no calls left: 3 requests"):
        client.complete(ASK)
    assert len(server.requests) == 3


def test_an_endpoint_that_is_down_is_not_asked_for_ever(server):
    client = server.client(attempts=2, in_a_row=3)
    server.faults = [status(500)] * 2 + [None] + [status(500)] * 4 + [status(400)] + [
        status(503)] * 2
    ask = lambda i: client.complete([*ASK, {"role": "user", "content": str(i)}])
    kinds = []
    for i in range(6):
        try:
            kinds.append(ask(i))
        except ChatError as error:
            kinds.append((error.kind, isinstance(error, ChatUnavailable)))
    assert kinds == [("http 500", False), "yes", ("http 500", False), ("http 500", False),
                     ("http 400", False), ("http 503", True)]


def test_nobody_there():
    client = ChatEndpoint(Endpoint("http://127.0.0.1:9/v1", "m", key_variable="", attempts=2),
                          sleep=lambda _: None)
    with pytest.raises(ChatError, match="connection: ConnectionError"):
        client.complete(ASK)


def test_replies_are_kept_and_asked_for_once(server, tmp_path):
    first = server.client(tmp_path)
    assert first.complete(ASK, max_tokens=3) == "yes"
    again = server.client(tmp_path)
    assert again.complete(ASK, max_tokens=3) == "yes" and again.sent == 0
    (file,) = tmp_path.glob("*/*.json")
    kept = json.loads(file.read_text())
    assert {k: kept[k] for k in ("reply", "model", "served_model", "options", "attempts")} == {
        "reply": "yes", "model": "test-model", "served_model": "test-model-2026",
        "options": {"max_tokens": 3}, "attempts": 1}
    assert len(kept["prompt_sha256"]) == 64 and kept["time"].endswith("+00:00")
    assert again.complete(ASK, max_tokens=4) == "yes" and again.sent == 1  # another request
    file.write_text("{}")
    with pytest.raises(BadInput, match="not a kept reply"):
        again.complete(ASK, max_tokens=3)


def test_only_replies_that_can_be_read_are_kept(server, tmp_path):
    replies = ["no idea", "```json\n{'why': 'both fit',}\n```", '{"other": 1}']
    server.reply = lambda request: replies.pop(0)
    client = server.client(tmp_path, attempts=2)
    parse = chat.json_object("why")
    assert client.complete(ASK, parse) == {"why": "both fit"}
    assert client.failures == {"malformed reply": 1}
    assert server.client(tmp_path).complete(ASK, parse) == {"why": "both fit"}
    other = server.client(tmp_path, attempts=1)
    with pytest.raises(ChatError, match="no why in the JSON object"):
        other.complete([*ASK, *ASK], parse)
    assert len(list(tmp_path.glob("*/*.json"))) == 1
    with pytest.raises(BadInput, match=r"kept reply cannot be read \(no other in the JSON object"):
        client.complete(ASK, chat.json_object("other"))


def test_the_key_stands_nowhere(server, tmp_path, monkeypatch, capfd):
    server.faults = [status(500, f"bad key {KEY}"), says(f"{KEY} is no JSON"),
                     status(401, f"you sent Bearer {KEY}")]
    client = server.client(tmp_path / "cache")
    with pytest.raises(ChatError) as caught:
        client.complete(ASK)
    error = caught.value
    assert error.__cause__ is None and error.__suppress_context__
    server.client(tmp_path / "cache").complete(ASK)
    kept = "".join(p.read_text() for p in tmp_path.rglob("*.json"))
    said = "".join(capfd.readouterr())
    assert "***" in str(error)
    assert all(KEY not in text for text in (str(error), repr(error), repr(client), kept, said))
    for bad in ("sk-line\nbreak", "sk-ü", "sk two"):
        monkeypatch.setenv("TEST_CHAT_KEY", bad)
        with pytest.raises(BadInput) as caught:
            server.client()
        assert bad not in str(caught.value)
    monkeypatch.delenv("TEST_CHAT_KEY")
    with pytest.raises(BadInput, match="TEST_CHAT_KEY: the environment variable is not set"):
        server.client()


def test_without_a_key_none_is_sent(server, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server.client(key_variable="").complete(ASK)
    assert server.keys == [""]


@pytest.mark.parametrize("url", ["localhost/v1", "http://user:key@host/v1", "https://h/v1?key=1"])
def test_addresses_that_are_refused(url):
    with pytest.raises(ValueError, match="url") as caught:
        Endpoint(url, "m")
    assert "key@" not in str(caught.value) and "key=1" not in str(caught.value)


def test_pauses_without_a_clock():
    client = ChatEndpoint(Endpoint("http://h/v1", "m", key_variable="", backoff=2), rng=
                          random.Random(0))
    found = [client._pause(attempt, 0.0) for attempt in range(1, 12)]
    assert all(min(2 * 2**i, 60) / 2 <= p <= min(2 * 2**i, 60) for i, p in enumerate(found))


def test_audio_goes_as_wav():
    wave = np.sin(np.arange(1600) / 20).astype(np.float32) / 2
    part = chat.audio_part(wave)
    data = base64.b64decode(part["input_audio"]["data"])
    samples, rate = soundfile.read(io.BytesIO(data))
    assert part["input_audio"]["format"] == "wav" and rate == 16000
    np.testing.assert_allclose(samples, wave, atol=1e-4)
