"""A chat with what is served: through the gateway, as any client's, under a key that lasts as long as the chat.

What is asked and answered lies in memory here and goes nowhere else; each turn is an intent and a completion in the
gateway's ledger. It knows the authority's client and OpenAI's documents, and no terminal.
"""

from __future__ import annotations

import json
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httpx

from cloister.api import ClientRequest, DeploymentState
from cloister.client import Client
from cloister.errors import (
    CloisterError,
    Conflict,
    Denied,
    InvalidInput,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from cloister.tls import verifying_context

KEY_LASTS = timedelta(hours=1)
"""A key that nobody could revoke, its terminal cut off, ends by itself after so long."""
KNOWN_WITHIN_S = 15.0
"""The gateway learns a key and a deployment from the event stream, a moment after they exist."""
ANSWER_S = 600.0
PREFIX = "chat"


@dataclass(frozen=True)
class Message:
    """One message of a conversation. `role` is `system`, `user` or `assistant`."""

    role: str
    content: str


@dataclass(frozen=True)
class Answer:
    """`tokens` of the answer as the engine counted them; `first_s` and `seconds` since it was asked. `request_id`
    is what the gateway's ledger calls the turn; `finish` is `stop`, or `length` where the answer was cut."""

    text: str
    tokens: int | None
    first_s: float
    seconds: float
    finish: str | None
    request_id: str | None


class Chat:
    """A conversation's way to the gateway. Made by `open_chat`; end it with `close`, which ends its key."""

    def __init__(self, client: Client, client_id: str, http: httpx.Client) -> None:
        self._client = client
        self._client_id = client_id
        self._http = http
        self._closed = False

    def __enter__(self) -> Chat:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Revoke the key, and cut what is being answered. Errors: those of `Client.revoke_client`."""
        self._closed = True
        try:
            self._client.revoke_client(self._client_id)
        finally:
            self._http.close()

    def ask(
        self,
        deployment: str,
        messages: Sequence[Message],
        on_text: Callable[[str], object],
        *,
        max_tokens: int | None = None,
    ) -> Answer:
        """One turn: `messages` in, the answer piece by piece to `on_text` as it is made, then whole.

        `deployment` is its name. `max_tokens` is the longest answer; none: as far as the context goes.
        Errors: Unauthenticated where the key has ended, Conflict where the context is full, Unavailable, NotFound.
        """
        body: dict[str, Any] = {
            "model": deployment,
            "messages": [{"role": one.role, "content": one.content} for one in messages],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if max_tokens is not None:
            body["max_tokens"] = max_tokens
        began = time.monotonic()
        first = finish = tokens = None
        pieces: list[str] = []
        try:
            with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.status_code != 200:
                    response.read()
                    raise _refused(response)
                for document in _events(response):
                    if self._closed:
                        raise Unavailable("the chat was closed")
                    for choice in document.get("choices", ()):
                        piece = (choice.get("delta") or {}).get("content")
                        if piece:
                            first = first if first is not None else time.monotonic() - began
                            pieces.append(piece)
                            on_text(piece)
                        finish = choice.get("finish_reason") or finish
                    tokens = (document.get("usage") or {}).get("completion_tokens", tokens)
                request_id = response.headers.get("x-request-id")
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise _away(self._http, error) from None
        except RuntimeError:  # httpx, where the chat was closed by another thread
            raise Unavailable("the chat was closed") from None
        if finish is None:
            raise Unavailable("the answer broke off", remedy="Ask again; `cloister serve list` shows why.")
        took = time.monotonic() - began
        return Answer("".join(pieces), tokens, took if first is None else first, took, finish, request_id)

    def _known(self, deployments: Sequence[str]) -> None:
        """Wait until the gateway knows the key, and serves these under it. Errors: Unavailable."""
        end = time.monotonic() + KNOWN_WITHIN_S
        while True:
            try:
                response = self._http.get("/v1/models")
            except httpx.HTTPError as error:
                raise _away(self._http, error) from None
            if response.status_code == 200:
                served = {one.get("id") for one in response.json().get("data", ())}
                if served.issuperset(deployments):
                    return
            if time.monotonic() > end:
                if response.status_code != 200:
                    raise _refused(response)
                raise Unavailable(
                    "the gateway does not serve it",
                    where=", ".join(deployments),
                    remedy="Try again in a moment.",
                )
            time.sleep(0.1)


def open_chat(client: Client, deployments: Sequence[str], *, now: datetime | None = None) -> Chat:
    """Issue a key for these deployments alone, by name, and wait until the gateway takes it.

    Errors: NotFound and Conflict for what is not served, Unavailable without a gateway, Denied, LedgerUnavailable.
    """
    states = {one.name: one.state for one in client.deployments()}  # oldest first: the last of a name counts
    for name in deployments:
        if name not in states:
            raise NotFound(
                "nothing is served under that name", where=name, remedy="See `cloister serve list`."
            )
        if states[name] != DeploymentState.READY:
            raise Conflict(
                f"it is {states[name]}, not ready", where=name, remedy="See `cloister serve list`."
            )
    url = client.status().gateway_url
    if url is None:
        raise Unavailable("the gateway does not run", remedy="Start it with `cloister up`.")
    account = re.sub(r"[^a-z0-9._-]", "-", client.whoami().account.lower())[:40]
    issued = client.issue_client(
        ClientRequest(
            name=f"{PREFIX}-{account}-{secrets.token_hex(4)}",
            deployments=tuple(dict.fromkeys(deployments)),
            expires_at=(now or datetime.now(UTC)) + KEY_LASTS,
        )
    )
    chat = Chat(client, issued.client.client_id, _http(url, issued.api_key))
    try:
        chat._known(deployments)
    except BaseException:
        chat.close()
        raise
    return chat


def _http(url: str, api_key: str) -> httpx.Client:
    """A connection to the gateway and to nothing else: no proxy of the environment is asked."""
    headers = {"authorization": f"Bearer {api_key}"}
    timeout = httpx.Timeout(30.0, read=ANSWER_S)
    if url.startswith("unix:"):
        transport = httpx.HTTPTransport(uds=url[5:])
        return httpx.Client(
            transport=transport, base_url="http://gateway", headers=headers, timeout=timeout, trust_env=False
        )
    parts = urlsplit(url)
    if parts.hostname in ("0.0.0.0", "::"):  # noqa: S104 - it listens everywhere; its certificate names this machine
        url = f"{parts.scheme}://{socket.getfqdn()}:{parts.port}"
    verify = verifying_context() if parts.scheme == "https" else False
    return httpx.Client(base_url=url, headers=headers, timeout=timeout, verify=verify, trust_env=False)


def _events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """The documents of a streamed answer, one an event. Errors: Unavailable for what is none."""
    for line in response.iter_lines():
        if not line.startswith("data:") or line[5:].strip() == "[DONE]":
            continue
        try:
            document = json.loads(line[5:])
        except ValueError:
            raise Unavailable("the gateway's answer cannot be read") from None
        if not isinstance(document, dict) or "error" in document:
            raise Unavailable(
                "the engine failed on this", remedy="Ask again; `cloister serve list` shows it."
            )
        yield document


def _refused(response: httpx.Response) -> CloisterError:
    """The error that a refusal of the gateway stands for; its sentences hold no content."""
    try:
        told = response.json()["error"]
        code, message = str(told["code"]), str(told["message"])
    except (ValueError, KeyError, TypeError):
        return Unavailable(f"the gateway answered {response.status_code}")
    if response.status_code == 401:
        return Unauthenticated("the chat's key has ended", remedy="Open the chat again.")
    if code == "context_length_exceeded":
        return Conflict(message.rstrip("."), remedy="Begin a new conversation, or ask for less.")
    kinds: dict[int, type[CloisterError]] = {400: InvalidInput, 403: Denied, 404: NotFound, 413: InvalidInput}
    return kinds.get(response.status_code, Unavailable)(message.rstrip("."))


def _away(http: httpx.Client, error: Exception) -> Unavailable:
    remedy = "`cloister status` shows whether it runs."
    if http.base_url.scheme == "https":
        remedy += " Its certificate must lead to a CA that this account trusts (SSL_CERT_FILE names one)."
    return Unavailable(
        f"the gateway does not answer ({type(error).__name__})", where=str(http.base_url), remedy=remedy
    )
