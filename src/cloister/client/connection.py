"""The wire of the client: requests to the authority's socket, its answers as documents, its refusals as exceptions."""

from __future__ import annotations

import json
import re
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from cloister.api import ONCE_PATHS, Problem
from cloister.errors import CloisterError, InvalidInput, NotFound, TooManyRequests, Unavailable, by_code

Answer = TypeVar("Answer")

PATIENCE_S = 30.0
"""So long a request waits for its turn where this account asks for more than its share."""
REQUEST_TIMEOUT_S = 60.0
STREAM_SILENCE_S = 30.0
IDLE_S = 2.0
"""So long a connection that idles is used again: the authority lets go of it after five seconds, and would not answer
what comes at that moment."""
BROKEN: dict[type[httpx.TransportError], str] = {
    httpx.ConnectError: "nothing listens on its socket",
    httpx.ReadTimeout: "it takes too long",
    httpx.ReadError: "the connection broke off",
    httpx.RemoteProtocolError: "the connection broke off",
}
DESCRIPTORS_PER_MESSAGE = 250


class Connection:
    """To one authority. Errors: those of `cloister.errors`, as the authority raised them; Unavailable where it does
    not answer."""

    def __init__(
        self,
        authority_socket: Path,
        *,
        answer_s: float = REQUEST_TIMEOUT_S,
        silence_s: float = STREAM_SILENCE_S,
    ) -> None:
        """A question that changes nothing is answered within `answer_s`; a stream is silent for at most `silence_s`."""
        self._socket = authority_socket
        self._answer_s = answer_s
        self._silence_s = silence_s
        self._http = self._connected()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def _get(self, path: str, kind: type[Answer], **query: Any) -> Answer:
        return read_answer(kind, self._request("GET", path, None, params=query), path)

    def _post(self, path: str, body: BaseModel | None, kind: type[Answer], **options: Any) -> Answer:
        return read_answer(kind, self._request("POST", path, body, **options), path)

    def _send(self, path: str, body: BaseModel | None, **options: Any) -> None:
        self._request("POST", path, body, **options)

    def _request(self, method: str, path: str, body: BaseModel | None, **options: Any) -> bytes:
        content = body.model_dump_json() if body is not None else None
        headers = {"content-type": "application/json"} if body is not None else {}
        if method == "GET":
            options.setdefault("timeout", self._answer_s)
        once = method == "POST" and re.fullmatch(ONCE_PATHS, path) is not None
        if once:
            headers["idempotency-key"] = uuid.uuid4().hex
        patience = time.monotonic() + PATIENCE_S
        sent = False
        while True:
            try:
                response = self._http.request(method, path, content=content, headers=headers, **options)
            except httpx.TransportError as error:
                # Cut off after it was sent, it is sent again under its key: the authority may just have restarted.
                sent = sent or (once and isinstance(error, httpx.ReadError | httpx.RemoteProtocolError))
                if not sent or isinstance(error, httpx.TimeoutException) or time.monotonic() > patience:
                    raise self._unavailable(error) from None
                time.sleep(0.1)
                continue
            if response.status_code < 400:
                return response.content
            refused = _error(response)
            if not isinstance(refused, TooManyRequests) or time.monotonic() > patience:
                raise refused
            time.sleep(min(1.0, max(0.005, float(refused.values.get("retry_after_s", 1.0)))))

    def _stream(self, path: str, **query: Any) -> Iterator[str]:
        """The data of server-sent events, one after the other. Errors: Unavailable when they break off."""
        timeout = httpx.Timeout(self._answer_s, read=self._silence_s)
        for line in self._lines("GET", path, query, timeout):
            if line.startswith("data: "):
                yield line[6:]
        raise Unavailable("the event stream ended", where=str(self._socket))

    def _lines(self, method: str, path: str, query: dict[str, Any], timeout: httpx.Timeout) -> Iterator[str]:
        """An answer line by line as it comes. Errors: Unavailable when it breaks off.

        It has a connection of its own. Left half-read, it may be collected in the middle of another request, and
        letting go of a shared connection would then wait for ever for the lock that this request holds.
        """
        try:
            with (
                self._connected() as http,
                http.stream(method, path, params=query, timeout=timeout) as response,
            ):
                if response.status_code >= 400:
                    response.read()
                    raise _error(response)
                yield from response.iter_lines()
        except httpx.TransportError as error:
            raise self._unavailable(error) from None

    def _connected(self) -> httpx.Client:
        return httpx.Client(
            transport=httpx.HTTPTransport(
                uds=str(self._socket),
                verify=False,  # no TLS there, no certificates to load
                limits=httpx.Limits(keepalive_expiry=IDLE_S),
            ),
            base_url="http://authority",
            timeout=REQUEST_TIMEOUT_S,
        )

    def _unavailable(self, error: httpx.TransportError) -> Unavailable:
        return Unavailable(
            f"the authority does not answer: {BROKEN.get(type(error), type(error).__name__)}",
            where=str(self._socket),
            remedy="Start it with `cloister up`.",
        )

    @staticmethod
    def _hand_over(token: str, side_socket: str, descriptors: Mapping[str, int]) -> None:
        roles: Sequence[str] = list(descriptors)
        if len(roles) > DESCRIPTORS_PER_MESSAGE:
            raise InvalidInput(f"more than {DESCRIPTORS_PER_MESSAGE} files cannot be passed at once")
        message = json.dumps({"token": token, "roles": roles}).encode() + b"\n"
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(REQUEST_TIMEOUT_S)
                connection.connect(side_socket)
                sent = socket.send_fds(connection, [message], [descriptors[role] for role in roles])
                if message[sent:]:  # sending nothing would fail where the other side has answered and gone
                    connection.sendall(message[sent:])
                reply = json.loads(connection.makefile("rb").readline() or b"{}")
        except (OSError, ValueError) as error:
            raise Unavailable(
                f"the source could not be handed over ({type(error).__name__})", where=side_socket
            ) from None
        if not reply.get("ok"):
            raise by_code(str(reply.get("code")))(str(reply.get("detail", "the source was refused")))


def error_of(problem: Problem) -> CloisterError:
    """The exception that a problem document stands for."""
    kind = by_code(problem.code)
    return kind(problem.detail, where=problem.where, remedy=problem.remedy, values=problem.values)


def _error(response: httpx.Response) -> CloisterError:
    try:
        return error_of(Problem.model_validate_json(response.content))
    except ValueError:
        return CloisterError(f"the authority answered {response.status_code}")


def read_answer(kind: type[Answer], answer: bytes | str, path: str) -> Answer:
    """An answer as its document. Errors: CloisterError, without a value, where it is none of this version's."""
    try:
        return TypeAdapter(kind).validate_json(answer)
    except ValidationError:
        raise CloisterError(
            "the authority's answer is not understood: it may be of another version than this program",
            where=path,
            remedy="Leave, and begin again with the version that is installed now.",
        ) from None


def quoted(reference: str) -> str:
    """A name or id as one segment of a path. Errors: NotFound for what would be none."""
    if reference in ("", ".", ".."):
        raise NotFound("nothing is called that", where=f"'{reference}'", remedy="Give a name or an id.")
    return quote(reference, safe="")
