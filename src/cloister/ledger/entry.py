"""One entry of a ledger and its canonical bytes.

The bytes are canonical JSON (RFC 8785). An entry holds no content: no row, prompt or answer. This
module does not know where entries are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import msgspec
import rfc8785

from cloister.errors import InvalidInput

FORMAT = 1
MAX_ENTRY = 0xFFFF
"""The longest canonical form of an entry, in bytes: what a bundle's length prefix can say."""

_MAX_INT = 2**53 - 1
_encode = msgspec.json.Encoder(order="sorted").encode


@dataclass(frozen=True, slots=True)
class Entry:
    """What happened: when, who, how they were identified, what they did, to what, and why it was allowed.

    `time` is ISO 8601 in UTC. `objects` are object ids; `digests` name digests of ciphertexts or
    keyed digests; `policy` is the digest of the policy set that gave the `decision`. `details` holds
    JSON values (counts, codes, commitments), never content.
    """

    time: str
    actor: str
    identified_by: str
    action: str
    objects: tuple[str, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)
    policy: str | None = None
    decision: str | None = None
    reason: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def canonical(self) -> bytes:
        """The entry in canonical JSON, at most `MAX_ENTRY` bytes.

        Raises:
            InvalidInput: a value is not JSON, or the entry is too long.
        """
        document = {
            "format": FORMAT,
            "time": self.time,
            "actor": self.actor,
            "identified_by": self.identified_by,
            "action": self.action,
            "objects": list(self.objects),
            "digests": dict(self.digests),
            "policy": self.policy,
            "decision": self.decision,
            "reason": self.reason,
            "details": dict(self.details),
        }
        data = canonical_json(document)
        if len(data) > MAX_ENTRY:
            raise InvalidInput(
                f"The entry has {len(data)} bytes; a ledger entry has at most {MAX_ENTRY}.",
                where=f"ledger entry {self.action!r}",
                remedy="Keep what is long outside the ledger and record its commitment.",
            )
        return data


def canonical_json(value: Any) -> bytes:
    """RFC 8785 bytes of a JSON value.

    Values made only of exact strings, integers, booleans, null, lists and objects with ASCII names
    are encoded by msgspec (some 30 times faster), which gives the same bytes for these; all others,
    numbers with fractions among them, by `rfc8785`.

    Raises:
        InvalidInput: the value has no canonical form.
    """
    try:
        if _is_simple(value):
            return _encode(value)
        return rfc8785.dumps(_plain(value))
    except (rfc8785.CanonicalizationError, UnicodeError, TypeError, ValueError, RecursionError):
        raise InvalidInput(
            "A ledger entry holds a value that has no canonical JSON form.",
            where="ledger entry",
            remedy="Use strings, booleans, null, numbers within ±(2^53 - 1), lists and objects.",
        ) from None


def _is_simple(value: Any) -> bool:
    kind: type = type(value)
    if kind is str or kind is bool or value is None:
        return True
    if kind is int:
        return bool(-_MAX_INT <= value <= _MAX_INT)
    if kind is dict:
        for name, item in value.items():
            if type(name) is not str or not name.isascii() or not _is_simple(item):
                return False
        return True
    if kind is list or kind is tuple:
        return all(_is_simple(item) for item in value)
    return False


def _plain(value: Any) -> Any:
    """The same value with mappings as dicts, enumerations as their values, and subclasses as base types."""
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, Mapping):
        return {_plain(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        text = str.__str__(value)
        text.encode()  # a lone surrogate has no UTF-8 form
        return text
    return value
