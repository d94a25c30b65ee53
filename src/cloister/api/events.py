"""The ordered stream of events, and the alerts that somebody has to look at.

Carries ids and numbers; who follows reads the things themselves again.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel

STREAM_GAP = "stream.gap"

STREAM_RESET = "stream.reset"

EVENTS_LOST = frozenset({STREAM_GAP, STREAM_RESET})
"""Kinds of events after which whoever follows reads the state anew, and follows on."""


class Event(BaseModel):
    """One element of the ordered stream. Numbers grow by one and are never used twice.

    Two kinds are told to one follower alone, and carry `from` and `to`: `stream.gap`, in place of the events with those
    numbers, which are not kept any more (its own `seq` is `to`); `stream.reset`, where the follower has heard up to
    `from` of a stream that has come to `to` only, as after a backup was brought back.
    """

    seq: int
    time: datetime
    kind: str
    subject: str | None = None
    data: dict[str, Any] = {}


class Alert(BaseModel):
    """Something that somebody has to look at: why, who is affected, and the next safe command.

    `key` names it while it lasts; `acknowledged_by` has seen it, which ends nothing.
    """

    key: str
    severity: Literal["critical", "warning"]
    cause: str
    affects: str
    command: str
    raised_at: datetime
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None
