"""Requests that no honest client sends, straight onto the socket."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from gateway_stand_ins import CANARY, Site, wait_for

CHAT = {"model": "claims", "messages": [{"role": "user", "content": "hello"}]}


def _raw(site: Site, data: bytes, *, until_closed: bool = False, patience: float = 60.0) -> bytes:
    """Send bytes, return what comes back until the first answer is whole (or the connection ends)."""
    with socket.create_connection(site.gateway.address, timeout=patience) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data)
        got = b""
        try:
            while block := connection.recv(1 << 16):
                got += block
                if not until_closed and b"\r\n\r\n" in got and got.endswith(b"}"):
                    break
        except ConnectionResetError:
            pass
        return got


def _head(site: Site, *more: str, length: int | None = None, path: str = "/v1/chat/completions") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: x", f"authorization: Bearer {site.key}"]
    if length is not None:
        lines.append(f"content-length: {length}")
    if not any(line.lower().startswith("content-type") for line in more):
        lines.append("content-type: application/json")
    return "\r\n".join([*lines, *more, "", ""]).encode()


def _post(site: Site, body: bytes, **headers: str) -> httpx.Response:
    sent = {"authorization": f"Bearer {site.key}", "content-type": "application/json", **headers}
    return site.http.post(site.gateway.url + "/v1/chat/completions", content=body, headers=sent)


@pytest.fixture(scope="module")
def slow_site() -> Iterator[Site]:
    with Site.open() as site:
        site.start("--slow-client", "0.5")
        yield site


@pytest.fixture(autouse=True)
def _still_serves(site: Site) -> Iterator[None]:
    yield
    assert site.openai().chat.completions.create(**CHAT).choices


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b'{"model": "claims", "messages": [{"role": "user", "content": "\xff"}]}',
        b'{"model": "claims", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"messages":' * 200_000,
        b'{"model": "claims", "messages": ' + b"[" * 200_000,
        b'{"model": "claims", "messages": []}',
        b'{"model": "claims", "messages": [{"role": "root", "content": "x"}]}',
        b'{"model": "claims", "messages": [{"role": "user", "content": [{"type": "image_url", "text": "x"}]}]}',
        b'{"model": "claims", "messages": [{"role": "user", "content": "x", "tool_calls": []}]}',
        b'{"model": "claims", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1e999}',
        b'{"model": "claims", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
        b'{"model": "claims", "messages": [{"role": "user", "content": "x"}], "n": 1000}',
        b'{"model": "claims", "messages": [{"role": "user", "content": "x"}], "stream": 1}',
        b'{"model": "claims", "messages": [{"role": "user", "content": "x"}]} {}',
    ],
)
def test_bodies_that_are_not_requests(site: Site, body: bytes) -> None:
    answer = _post(site, body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert not site.engine.seen


@pytest.mark.parametrize(
    "field",
    [
        "cache_salt", "prompt_logprobs", "logit_bias", "tools", "guided_json", "structured_outputs", "echo",
        "use_beam_search", "best_of", "ignore_eos", "min_tokens", "add_generation_prompt", "chat_template",
        "chat_template_kwargs", "mm_processor_kwargs", "priority", "request_id", "kv_transfer_params",
        "vllm_xargs", "truncate_prompt_tokens", "return_token_ids", "prompt_embeds", "documents", "x\"y`z",
    ],
)  # fmt: skip
def test_fields_that_are_not_on_the_list(site: Site, field: str) -> None:
    answer = _post(site, json.dumps({**CHAT, field: CANARY}).encode())
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("unknown_field", field)
    assert CANARY not in answer.text


def test_values_are_never_repeated(site: Site) -> None:
    for field in (
        "temperature",
        "n",
        "stop",
        "stream",
        "seed",
        "response_format",
        "messages",
        "max_tokens",
        "user",
    ):
        answer = _post(site, json.dumps({**CHAT, field: {"type": CANARY}}).encode())
        assert answer.status_code == 400, field
        assert CANARY not in answer.text
        assert field in answer.json()["error"]["param"]


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
def test_other_content_types(site: Site, kind: str) -> None:
    assert _post(site, json.dumps(CHAT).encode(), **{"content-type": kind}).status_code == 415


def test_compressed_bodies(site: Site) -> None:
    assert _post(site, b"x", **{"content-encoding": "gzip"}).status_code == 415


def test_huge_bodies(site: Site) -> None:
    assert _post(site, b'{"model": "' + b"x" * (5 << 20)).status_code == 413
    announced = _raw(site, _head(site, length=1 << 40))
    assert b" 413 " in announced.split(b"\r\n")[0]
    unknown = _head(site, length=1 << 40).replace(site.key.encode(), b"wrong-key-wrong-key")
    assert b" 401 " in _raw(site, unknown).split(b"\r\n")[0]


def test_smuggling(site: Site) -> None:
    body = json.dumps(CHAT).encode()
    smuggled = b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n"
    both = _head(site, "transfer-encoding: chunked", length=len(body)) + b"0\r\n\r\n" + smuggled
    twice = _head(site, "content-length: 5", length=len(body)) + body
    chunked = _head(site, "transfer-encoding: chunked") + b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"
    odd = _head(site, "transfer-encoding: xchunked", length=len(body)) + body
    spaced = _head(site, length=len(body)).replace(b"content-length:", b"content-length :") + body
    negative = _head(site).replace(b"\r\n\r\n", b"\r\ncontent-length: -1\r\n\r\n") + body
    folded = _head(site, " folded", length=len(body)) + body
    keys = _head(site, "authorization: Bearer other", length=len(body)) + body
    bare = b"GET /v1/models HTTP/1.1\nhost: x\n\n"
    for data in (both, twice, chunked, odd, spaced, negative, folded, keys, bare):
        answer = _raw(site, data, until_closed=True)
        assert answer.count(b"HTTP/1.1") <= 1
        assert not answer or answer.split(b" ")[1] in (b"400", b"411"), answer[:200]
    assert not site.engine.seen


def test_pipelined_requests_are_answered_in_order(site: Site) -> None:
    body = json.dumps(CHAT).encode()
    one = _head(site, length=len(body)) + body
    last = b"GET /nowhere HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    answer = _raw(site, one * 3 + last, until_closed=True)
    assert re.findall(rb"HTTP/1.1 (\d+) ", answer) == [b"200", b"200", b"200", b"404"]
    assert len(site.engine.seen) == 3


def test_a_flood_of_pipelined_requests_is_cut(site: Site) -> None:
    before = len(site.gateway.entries())
    _raw(site, b"GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n" * 20_000, until_closed=True)
    assert len(site.gateway.entries()) - before < 100


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET http://elsewhere/v1/models HTTP/1.1\r\nhost: x\r\n\r\n",
        b"CONNECT elsewhere:443 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"b" * 100_000,
        b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 5_000 + b"\r\n",
    ],
    ids=str,
)  # fmt: skip
def test_what_is_not_a_request_for_us(site: Site, data: bytes) -> None:
    answer = _raw(site, data)
    assert not answer or answer.split(b" ")[1] in (b"400", b"401", b"404", b"431"), answer[:100]


def test_keys_that_are_not_keys(site: Site) -> None:
    for value in (
        "",
        "Bearer",
        "Bearer ",
        "Basic abc",
        "Bearer " + "x" * 4000,
        "Bearer \t\x01",
        f"Token {site.key}",
    ):
        head = b"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: " + value.encode() + b"\r\n\r\n"
        assert _raw(site, head).split(b" ")[1] in (b"401", b"400")


@pytest.mark.parametrize("rest", [b"", b"content-length: 100\r\ncontent-type: application/json\r\n\r\n{"])
def test_slow_clients_are_let_go(slow_site: Site, rest: bytes) -> None:
    with socket.create_connection(slow_site.gateway.address, timeout=60) as connection:
        key = slow_site.key.encode()
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nauthorization: Bearer " + key + b"\r\n" + rest
        )
        got = b""
        with contextlib.suppress(ConnectionResetError):
            while block := connection.recv(4096):
                got += block
    assert not got or got.split(b" ")[1] == b"408"


def test_too_many_at_once_is_503(bare_site: Site) -> None:
    site = bare_site
    site.start("--max-requests", "2")
    site.engine.go_on.clear()
    streams = [iter(site.openai().chat.completions.create(**CHAT, stream=True)) for _ in range(2)]
    for stream in streams:
        next(stream)
    with pytest.raises(openai.InternalServerError) as caught:
        site.openai().chat.completions.create(**CHAT)
    assert caught.value.body["code"] == "overloaded"
    site.engine.go_on.set()
    for stream in streams:
        list(stream)
    wait_for(lambda: site.gateway.actions("inference.refused"))


def test_a_client_that_reads_nothing_does_not_hold_memory(site: Site) -> None:
    """The engine is not read faster than the client reads."""
    site.engine.words = ["w" * 60_000] * 400
    with socket.create_connection(site.gateway.address) as connection:
        body = json.dumps({**CHAT, "stream": True}).encode()
        connection.sendall(_head(site, length=len(body)) + body)
        wait_for(lambda: site.engine.seen)
        time.sleep(1.0)
        status = Path(f"/proc/{site.gateway.process.pid}/status").read_text()
        used = int(status.split("VmHWM:")[1].split()[0])
        assert used < 260_000, "KiB at most"
    wait_for(lambda: site.gateway.actions("inference.completion"))
    site.engine.words = ["one"]
