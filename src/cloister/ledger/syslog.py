"""RFC 5424 messages around OCSF events, and the octet-counted frames of RFC 6587 and RFC 5425.

The message is ASCII JSON, so it needs no byte order mark. Knows nothing of sockets or of logs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cloister.ledger.ocsf import encode

_NOT_PRINTABLE = re.compile(r"[^\x21-\x7e]")
_SEVERITY = {1: 6, 2: 5, 3: 4, 4: 3, 5: 2, 6: 1}
"""OCSF severity (Informational … Fatal) to syslog's (informational … alert)."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Header:
    """What is the same in every message of a sink. `facility` 13 is "log audit"."""

    hostname: str
    facility: int = 13
    app_name: str = "cloister"

    def message(self, event: Mapping[str, Any]) -> bytes:
        """The RFC 5424 message of an OCSF event."""
        return self.wrap(event, encode(event))

    def wrap(self, event: Mapping[str, Any], body: bytes) -> bytes:
        """As `message`, where the event is encoded already."""
        priority = self.facility * 8 + _SEVERITY.get(event["severity_id"], 6)
        moment = _EPOCH + timedelta(milliseconds=event["time"])
        time = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        metadata = event["metadata"]
        message_id = _field(str(metadata.get("event_code", "-")), 32)
        sequence = metadata.get("sequence")
        data = '[origin software="cloister"]'
        if isinstance(sequence, int):  # 1 to 2147483647, then again from 1: RFC 5424, section 7.3.1
            data = f'[meta sequenceId="{sequence % 0x7FFFFFFF + 1}"]{data}'
        head = (
            f"<{priority}>1 {time} {_field(self.hostname, 255)} {_field(self.app_name, 48)} - "
            f"{message_id} {data} "
        )
        return head.encode() + body


def octet_counted(message: bytes) -> bytes:
    """`MSG-LEN SP SYSLOG-MSG`."""
    return b"%d " % len(message) + message


def _field(text: str, limit: int) -> str:
    return _NOT_PRINTABLE.sub("_", text)[:limit] or "-"
