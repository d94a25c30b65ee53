"""Row and Message: the one form in which a dataset's content lives between import and training.

Knows how a row is encoded (MessagePack, one map a row) and nothing of files, sealing or formats.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Role = Literal["system", "user", "assistant"]


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One turn of a conversation."""

    role: Role
    content: str


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """One training example: turns, the last of them the assistant's.

    `label` is set for a classification task and equals the assistant's answer.
    """

    messages: tuple[Message, ...]
    label: str | None = None

    @property
    def answer(self) -> str:
        """The last turn's content: what a model is trained and measured on."""
        return self.messages[-1].content

    @property
    def prompt(self) -> tuple[Message, ...]:
        """Every turn but the last."""
        return self.messages[:-1]


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Row)

encode_row = _ENCODER.encode
"""A row as MessagePack bytes."""

decode_row = _DECODER.decode
"""The inverse of `encode_row`; raises `msgspec.DecodeError` on anything else."""
