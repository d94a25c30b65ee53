"""The request bodies that are let in, field by field, and what the engine is sent for them.

Parses bytes into a frozen `Inference`; whatever is not on the list is refused by the field's name, never
with its value. Does not know who asks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from cloister.gateway.limits import Limits
from cloister.gateway.refusal import Refusal

ShortText = Annotated[str, Meta(min_length=1, max_length=256)]
Int64 = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
Penalty = Annotated[float, Meta(ge=-2.0, le=2.0)]
Choices = Annotated[int, Meta(ge=1, le=8)]
Tokens = Annotated[int, Meta(ge=1, le=1 << 31)]


class TextPart(Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["text"]
    text: str


class ChatMessage(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    role: Literal["system", "user", "assistant"]
    content: str | Annotated[list[TextPart], Meta(min_length=1, max_length=256)]
    name: Annotated[str, Meta(min_length=1, max_length=64)] | None = None


class StreamOptions(Struct, frozen=True, forbid_unknown_fields=True):
    include_usage: bool = False


class ResponseFormat(Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["text", "json_object"]


class _Common(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    model: Annotated[str, Meta(min_length=1, max_length=128)]
    max_tokens: Tokens | None = None
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] | None = None
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] | None = None
    stop: ShortText | Annotated[list[ShortText], Meta(min_length=1, max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Choices | None = None
    seed: Int64 | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    user: Annotated[str, Meta(max_length=512)] | None = None


class ChatBody(_Common, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Body of `POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=2048)]
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None


class TextBody(_Common, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Body of `POST /v1/completions`."""

    prompt: str | Annotated[list[str], Meta(min_length=1, max_length=1)]
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None


@dataclass(frozen=True, slots=True)
class Inference:
    """An admitted body. `fields` are what the engine may see of it; no `max_tokens` means its own bound."""

    route: Literal["chat", "text"]
    model: str
    stream: bool
    include_usage: bool
    choices: int
    max_tokens: int | None
    fields: dict[str, Any]

    def engine_body(self, *, cache_salt: str, max_model_len: int, limits: Limits) -> bytes:
        """The JSON document for the engine, whose prefix cache is kept apart by `cache_salt`.

        The model is left out: an engine serves one. Without a wish for `max_tokens`, a chat's answer ends
        where the context does, or at the gateway's bound if that comes first.
        """
        document = dict(self.fields)
        document["cache_salt"] = cache_salt
        asked = self.max_tokens
        if asked is None and self.route == "chat" and max_model_len > limits.max_tokens:
            asked = limits.max_tokens
        if asked is not None:
            document["max_completion_tokens" if self.route == "chat" else "max_tokens"] = asked
        if self.stream:
            document["stream"] = True
            document["stream_options"] = {"include_usage": True}
        return _encode(document)


_encode: Final = msgspec.json.Encoder().encode
_chat: Final = msgspec.json.Decoder(ChatBody)
_text: Final = msgspec.json.Decoder(TextBody)
_PASSED: Final = (
    "messages",
    "prompt",
    "temperature",
    "top_p",
    "stop",
    "n",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "logprobs",
    "top_logprobs",
    "response_format",
)


def parse(route: Literal["chat", "text"], body: bytes, limits: Limits) -> Inference:
    """Check a body against its list of fields.

    Raises:
        Refusal: 400, naming the field at fault.
    """
    try:
        document: ChatBody | TextBody = _chat.decode(body) if route == "chat" else _text.decode(body)
    except msgspec.ValidationError as fault:
        raise _explain(str(fault)) from None
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise Refusal(400, "invalid_json", "The body is not valid JSON in UTF-8.") from None
    if document.stream_options is not None and not document.stream:
        raise _invalid("stream_options", "It is only allowed where 'stream' is true")
    asked, name = document.max_tokens, "max_tokens"
    if isinstance(document, ChatBody):
        if document.top_logprobs is not None and not document.logprobs:
            raise _invalid("top_logprobs", "It is only allowed where 'logprobs' is true")
        if document.max_completion_tokens is not None:
            if asked is not None and asked != document.max_completion_tokens:
                raise _invalid("max_completion_tokens", "It contradicts 'max_tokens'")
            asked, name = document.max_completion_tokens, "max_completion_tokens"
    if asked is not None and asked > limits.max_tokens:
        raise _invalid(name, f"At most {limits.max_tokens} is allowed")
    values = ((field, getattr(document, field, None)) for field in _PASSED)
    return Inference(
        route=route,
        model=document.model,
        stream=bool(document.stream),
        include_usage=document.stream_options is not None and document.stream_options.include_usage,
        choices=document.n or 1,
        max_tokens=asked,
        fields={field: value for field, value in values if value is not None},
    )


_PLACE: Final = re.compile(r" - at `\$([^`]*)`$")
_NAMED: Final = re.compile(r"^Object (contains unknown|missing required) field `(.*)`$", re.DOTALL)
_SAFE: Final = re.compile(r"^Expected `[^`]+`(, got `[a-z]+`| of length [<>=]+ \d+| [<>=]+ -?[\d.]+)?$")


def _invalid(field: str, rule: str) -> Refusal:
    return Refusal(400, "invalid_value", f"Invalid '{field}': {rule}.", param=field)


def _explain(text: str) -> Refusal:
    """Turn msgspec's sentence into ours: the place and the rule stay, a value never does."""
    place = _PLACE.search(text)
    path = place.group(1).lstrip(".") if place else ""
    text = text[: place.start()] if place else text
    named = _NAMED.match(text)
    if named:
        field = named.group(2)[:64]
        field = f"{path}.{field}" if path else field
        if named.group(1).startswith("contains"):
            return Refusal(400, "unknown_field", f"Unknown field '{field}'.", param=field)
        return Refusal(400, "missing_field", f"Missing field '{field}'.", param=field)
    rule = text.replace("`", "'") if _SAFE.match(text) else "The value is not one of those allowed"
    return _invalid(path or "body", rule)
