"""What an engine answered, checked field by field before a client sees it.

An engine's own error texts stop here: they could repeat a prompt. Knows the shapes of OpenAI's answers
and nothing of sockets.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from cloister.gateway.refusal import Refusal, engine_failed

DONE: Final = b"data: [DONE]\n\n"
_FINISHES: Final = frozenset({"stop", "length", "content_filter", "abort", "error"})
_TOP: Final = ("id", "object", "created")
_CHOICE: Final = ("index", "message", "delta", "text", "logprobs", "finish_reason")
_USAGE: Final = ("prompt_tokens", "completion_tokens", "total_tokens")

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode


class Tally:
    """Follows one answer to its end: how many tokens it used and why it stopped.

    Args:
        model: the name under which the client asked.
        choices: how many answers it wants side by side.
    """

    def __init__(self, model: str, choices: int) -> None:
        self._model = model
        self._open = choices
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None
        self.finish_reason: str | None = None
        self.events = 0

    @property
    def finished(self) -> bool:
        """Whether every choice has given its reason for stopping."""
        return self._open <= 0

    def whole(self, body: bytes) -> bytes:
        """An answer that came in one piece, as the client gets it.

        Raises:
            Refusal: 502 where it is not an answer.
        """
        document = self._read(body)
        if "choices" not in document:
            raise engine_failed()
        return _encode(self._shape(document, usage=True))

    def event(self, data: bytes, *, usage: bool) -> bytes:
        """One event of a streamed answer, as the client gets it; empty where it gets none of it.

        Raises:
            Refusal: 502 where the engine reports an error or the event is malformed.
        """
        document = self._read(data)
        shaped = self._shape(document, usage=usage)
        self.events += 1
        if not shaped["choices"] and "usage" not in shaped:
            return b""
        return b"data: " + _encode(shaped) + b"\n\n"

    def _read(self, data: bytes) -> dict[str, Any]:
        try:
            document = _decode(data)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise engine_failed() from None
        if "error" in document:
            raise engine_failed()
        return document

    def _shape(self, document: dict[str, Any], *, usage: bool) -> dict[str, Any]:
        shaped: dict[str, Any] = {name: document[name] for name in _TOP if name in document}
        shaped["model"] = self._model
        choices = document.get("choices")
        if not isinstance(choices, list):
            raise engine_failed()
        shaped["choices"] = kept = []
        for choice in choices:
            if not isinstance(choice, dict):
                raise engine_failed()
            kept.append({name: choice[name] for name in _CHOICE if name in choice})
            reason = choice.get("finish_reason")
            if reason is not None:
                self._open -= 1
                self.finish_reason = reason if reason in _FINISHES else "other"
        counts = document.get("usage")
        if isinstance(counts, dict):
            self.prompt_tokens = _count(counts.get("prompt_tokens"))
            self.completion_tokens = _count(counts.get("completion_tokens"))
            if usage:
                shaped["usage"] = {name: _count(counts.get(name)) or 0 for name in _USAGE}
        return shaped


class EventReader:
    """Cuts a stream of bytes into the `data:` of server-sent events, holding at most `limit` bytes of one."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = b""

    def feed(self, block: bytes) -> Iterator[bytes]:
        """Raises Refusal (502) where one event grows beyond the limit."""
        *events, self._rest = (self._rest + block).split(b"\n\n")
        if len(self._rest) > self._limit:
            raise engine_failed()
        for event in events:
            for line in event.split(b"\n"):
                if line.startswith(b"data:"):
                    yield line[5:].strip()


def engine_refusal(status: int, body: bytes, max_model_len: int) -> Refusal:
    """The client's version of an engine's error: which kind it was, and none of its text."""
    if status in (400, 422):
        if b"context length" in body or b"maximum model length" in body:
            return Refusal(
                400,
                "context_length_exceeded",
                f"Prompt and answer do not fit into the model's context of {max_model_len} tokens.",
                param="messages",
            )
        return Refusal(
            400, "engine_refused", "The model's engine does not accept this combination of fields."
        )
    if status in (429, 503):
        return Refusal(
            503, "engine_unavailable", "The model's engine takes no requests now. Try again later."
        )
    return engine_failed()


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
