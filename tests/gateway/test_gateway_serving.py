"""The official client in front, an engine behind, and what the ledger says of it."""

from __future__ import annotations

import json
import socket
from datetime import timedelta

import openai
import pytest
from gateway_stand_ins import CANARY, Site, wait_for

from cloister.api import DeploymentState

ASK = {"model": "claims", "messages": [{"role": "user", "content": f"hello {CANARY}"}]}


def test_chat_whole(site: Site) -> None:
    raw = site.openai().chat.completions.with_raw_response.create(**ASK, temperature=0, max_tokens=8)
    answer = raw.parse()
    assert answer.choices[0].message.content == "".join(site.engine.words)
    assert answer.model == "claims"
    assert answer.usage.completion_tokens == 4
    assert "prompt_text" not in answer.model_dump()
    about = [entry for entry in site.gateway.entries() if entry["action"] != "inference.counted"]
    assert [entry["action"] for entry in about] == ["inference.intent", "inference.completion"]
    intent, completion = about
    assert intent["actor"] == completion["actor"] == site.client.client_id
    assert (
        raw.headers["x-request-id"] == intent["details"]["request_id"] == completion["details"]["request_id"]
    )
    assert site.engine.headers[-1]["x-request-id"] == raw.headers["x-request-id"]
    assert completion["details"]["status"] == 200
    assert completion["details"]["prompt_tokens"] == 7
    assert completion["details"]["finish_reason"] == "stop"
    assert site.engine.seen[-1]["max_completion_tokens"] == 8


def test_chat_streamed(site: Site) -> None:
    stream = site.openai().chat.completions.create(**ASK, stream=True)
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "".join(site.engine.words)
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(c.usage is None for c in chunks)
    assert {c.model for c in chunks} == {"claims"}
    completion = site.gateway.actions("inference.completion")[-1]
    assert completion["details"]["completion_tokens"] == 4


def test_usage_of_a_stream_on_demand(site: Site) -> None:
    stream = site.openai().chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True})
    assert list(stream)[-1].usage.total_tokens == 11


def test_completions_both_ways(site: Site) -> None:
    client = site.openai()
    whole = client.completions.create(model="claims", prompt=["hello"])
    assert whole.choices[0].text == "".join(site.engine.words)
    streamed = client.completions.create(model="claims", prompt="hello", stream=True)
    assert "".join(c.choices[0].text for c in streamed) == "".join(site.engine.words)


def test_models_are_those_the_key_may_use_and_that_run(site: Site) -> None:
    site.authority.deploy("other", site.engine.server.path)
    site.authority.deploy("halted", site.engine.server.path, state=DeploymentState.STOPPED)
    narrow, _ = site.authority.issue(deployments=["other"])
    wait_for(lambda: len(list(site.openai().models.list())) == 2)
    site.known(narrow)
    assert [m.id for m in site.openai(narrow).models.list()] == ["other"]
    with pytest.raises(openai.NotFoundError):
        site.openai(narrow).chat.completions.create(**ASK)


def test_wrong_key_is_401_with_an_entry(site: Site) -> None:
    with pytest.raises(openai.AuthenticationError):
        site.openai("ck-" + "x" * 32).chat.completions.create(**ASK)
    refused = site.gateway.actions("inference.refused")[-1]
    assert (refused["actor"], refused["reason"]) == ("anonymous", "invalid_api_key")
    assert refused["details"]["status"] == 401
    assert site.http.get(site.gateway.url + "/v1/models").status_code == 401
    assert not site.engine.seen


def test_expired_and_revoked_keys_are_401(site: Site) -> None:
    expired, _ = site.authority.issue(expires_in=-timedelta(seconds=1))
    key, client = site.authority.issue()
    site.known(key)
    assert site.status(expired) == 401
    site.authority.revoke(client)
    wait_for(lambda: site.status(key) == 401)
    assert site.status(site.key) == 200


def test_unknown_field_is_400_with_an_entry(site: Site) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        site.openai().chat.completions.create(**ASK, extra_body={"cache_salt": "mine"})
    assert caught.value.body["param"] == "cache_salt"
    assert "mine" not in str(caught.value)
    refused = site.gateway.actions("inference.refused")[-1]
    assert (refused["actor"], refused["reason"]) == (site.client.client_id, "unknown_field")
    assert "cache_salt" not in str(refused)
    assert not site.engine.seen


def test_stopped_engine_is_503_with_an_entry(site: Site) -> None:
    site.authority.deploy("claims", site.engine.server.path, state=DeploymentState.STOPPED)
    wait_for(lambda: not list(site.openai().models.list()))
    with pytest.raises(openai.InternalServerError) as caught:
        site.openai().chat.completions.create(**ASK)
    assert caught.value.status_code == 503
    assert site.gateway.actions("inference.refused")[-1]["reason"] == "engine_unavailable"


def test_dead_engine_is_503_with_its_completion(site: Site) -> None:
    site.engine.server.stop()
    with pytest.raises(openai.InternalServerError) as caught:
        site.openai().chat.completions.create(**ASK)
    assert caught.value.status_code == 503
    completion = site.gateway.actions("inference.completion")[-1]
    assert completion["details"]["status"] == 503
    assert completion["reason"] == "engine_unavailable"


def test_an_engine_that_comes_back_is_used_again(site: Site) -> None:
    client = site.openai()
    client.chat.completions.create(**ASK)
    site.engine.server.stop()
    site.engine.server.start()
    assert client.chat.completions.create(**ASK).choices


def test_unknown_model_and_route_are_404(site: Site) -> None:
    with pytest.raises(openai.NotFoundError):
        site.openai().chat.completions.create(**{**ASK, "model": "nothing"})
    headers = {"authorization": f"Bearer {site.key}"}
    for path in (
        "/tokenize",
        "/v1/embeddings",
        "/metrics",
        "/docs",
        "/v1/%6dodels",
        "/v1/models/",
        "//v1/models",
    ):
        assert site.http.get(site.gateway.url + path, headers=headers).status_code == 404
    assert site.http.post(site.gateway.url + "/v1/models", headers=headers).status_code == 404
    reasons = {entry["reason"] for entry in site.gateway.actions("inference.refused")}
    assert reasons == {"model_not_found", "unknown_route"}


@pytest.mark.parametrize(
    ("behave", "status", "code"),
    [
        ("error", 400, "engine_refused"),
        ("too-long", 400, "context_length_exceeded"),
        ("fail", 502, "engine_failed"),
        ("garbage", 502, "engine_failed"),
    ],
)
def test_errors_of_the_engine_are_told_without_its_words(
    site: Site, behave: str, status: int, code: str
) -> None:
    site.engine.behave = behave
    for stream in (False, True):
        with pytest.raises(openai.APIStatusError) as caught:
            site.openai().chat.completions.create(**ASK, stream=stream)
        assert caught.value.status_code == status
        assert caught.value.body["code"] == code
        assert CANARY not in caught.value.response.text
    completions = site.gateway.actions("inference.completion")
    assert [c["reason"] for c in completions] == [code, code]


@pytest.mark.parametrize("behave", ["die", "stream-error"])
def test_a_stream_that_breaks_says_so(site: Site, behave: str) -> None:
    site.engine.behave = behave
    site.engine.words = ["one ", "two ", "three ", "four"]
    got = []
    with pytest.raises(openai.APIError) as caught:
        for chunk in site.openai().chat.completions.create(**ASK, stream=True):
            got.append(chunk.choices[0].delta.content)
    assert got == ["one ", "two "]
    assert CANARY not in str(caught.value)
    assert site.gateway.actions("inference.completion")[-1]["details"]["status"] in (502, 503)


def test_salt_is_the_clients_own(site: Site) -> None:
    other, _ = site.authority.issue()
    site.known(other)
    for key in (site.key, site.key, other):
        site.openai(key).chat.completions.create(**ASK, user="someone")
    mine, again, theirs = [seen["cache_salt"] for seen in site.engine.seen]
    assert mine == again != theirs
    assert all("user" not in seen and "model" not in seen for seen in site.engine.seen)


def test_the_end_of_a_stream_waits_for_its_entry(site: Site) -> None:
    """While words still come there is no completion; when the last ones are here, it is in the ledger."""
    site.engine.go_on.clear()
    stream = iter(site.openai().chat.completions.create(**ASK, stream=True))
    next(stream)
    assert not site.gateway.actions("inference.completion")
    site.engine.go_on.set()
    while not next(stream).choices[0].finish_reason:
        pass
    assert site.gateway.actions("inference.completion")


def test_the_intent_comes_before_the_prompt(site: Site) -> None:
    site.engine.go_on.clear()
    stream = site.openai().chat.completions.create(**ASK, stream=True)
    next(iter(stream))
    inference = [e["action"] for e in site.gateway.entries() if e["action"].startswith("inference.")]
    assert inference[-1] == "inference.intent"
    site.engine.go_on.set()
    assert len(list(stream)) == 3


def test_a_client_that_leaves_stops_the_engine_and_is_recorded(site: Site) -> None:
    site.engine.go_on.clear()
    stream = site.openai().chat.completions.create(**ASK, stream=True)
    next(iter(stream))
    stream.close()
    wait_for(lambda: site.engine.gone == 1)
    completion = wait_for(lambda: site.gateway.actions("inference.completion"))[-1]
    assert completion["details"]["client_gone"] is True
    site.engine.behave = "hang"
    body = json.dumps(ASK).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {site.key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(site.gateway.address) as connection:
        connection.sendall(head.encode() + body)
        wait_for(lambda: len(site.engine.seen) == 2)  # it leaves while the engine works on the answer
    wait_for(lambda: site.engine.gone == 2)
    wait_for(lambda: len(site.gateway.actions("inference.completion")) == 2)
