"""Moments as operators write them: a span before now, a time of day, a date."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from cloister.errors import InvalidInput

_AGO = re.compile(r"([0-9]{1,6})([smhdw])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_CLOCK = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", re.ASCII)


def moment(text: str | None, option: str, now: datetime) -> str | None:
    """A moment in UTC, ISO 8601: `2h` before `now`, the last `18:00`, or a date and time, in this machine's zone."""
    if text is None:
        return None
    ago, clock = _AGO.fullmatch(text), _CLOCK.fullmatch(text)
    try:
        if ago is not None:
            found = now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        elif clock is not None:
            local = now.astimezone().replace(tzinfo=None)  # yesterday's clock may have been another one
            found = local.replace(hour=int(clock[1]), minute=int(clock[2]), second=0, microsecond=0)
            if found > local:
                found -= timedelta(days=1)
            found = found.astimezone(UTC)
        else:
            found = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidInput(
            "not a time",
            where=option,
            remedy="Give for example 90m, 2h, 3d, 18:00, 2026-11-21 or 2026-11-21T14:30.",
        ) from None
    return found.isoformat()
