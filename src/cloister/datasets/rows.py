"""Row and Message: the one form in which a dataset's content lives between import and training.

Knows how a row is encoded (MessagePack, one map a row) and nothing of files, sealing or formats.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

Role = Literal["system", "user", "assistant", "tool"]


class ToolCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A function that the assistant calls. `arguments` is the text of a JSON object."""

    name: str
    arguments: str


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """One turn of a conversation. `content` may be empty only beside `tool_calls`, which are the assistant's.

    A `tool` turn answers the calls of the assistant's turn before it, in their order.
    """

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """One training example: turns, the last of them the assistant's; or a plain `text` and no turn.

    `label` is set for a classification task and equals the assistant's answer. `tools` is the text of a JSON
    array of the functions that the assistant may call. `groups` holds the columns by which results are told
    apart (site, product), name to value.
    """

    messages: tuple[Message, ...] = ()
    label: str | None = None
    text: str | None = None
    tools: str | None = None
    groups: dict[str, str] = {}

    @property
    def answer(self) -> str:
        """The last turn's content: what a model is trained and measured on. The text of a row without turns."""
        return self.messages[-1].content if self.messages else self.text or ""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """Every turn but the last."""
        return self.messages[:-1]

    def texts(self) -> Iterator[str]:
        """Everything in it that somebody wrote, piece by piece; names of groups are the steward's and left out."""
        for message in self.messages:
            if message.content:
                yield message.content
            for call in message.tool_calls:
                yield call.name
                yield call.arguments
        for piece in (self.label, self.text, self.tools):
            if piece is not None:
                yield piece
        yield from self.groups.values()

    @property
    def characters(self) -> int:
        """Its length as it is learnt: turns, calls of functions and plain text; neither the label, which is the last
        turn once more, nor groups."""
        turns = sum(
            len(message.content) + sum(len(call.name) + len(call.arguments) for call in message.tool_calls)
            for message in self.messages
        )
        return turns + len(self.text or "") + len(self.tools or "")


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Row)

encode_row = _ENCODER.encode
"""A row as MessagePack bytes."""


def append_row(row: Row, data: bytearray) -> None:
    """Put `encode_row(row)` behind what `data` holds."""
    _ENCODER.encode_into(row, data, -1)


decode_row = _DECODER.decode
"""The inverse of `encode_row`; raises `msgspec.DecodeError` on anything else."""
