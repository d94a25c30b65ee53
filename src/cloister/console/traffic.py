"""Requests to deployments, counted from the gateway's ledger: how many, how slow, how many tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from rich.text import Text

from cloister.console.paint import COLOURS, facts, styled

if TYPE_CHECKING:
    from cloister.api import LedgerEntry

ANSWERED = "inference.completion"
WINDOW = timedelta(minutes=5)
READ = 1000
"""So many of the newest requests are looked at, all that one question brings."""


@dataclass(frozen=True)
class Traffic:
    """Of one deployment in the last `WINDOW`: requests a second, seconds that half and all but one in twenty of them
    took at most, tokens a second out, and how many were not answered well. `at_least`: there were more."""

    requests: int
    per_s: float
    median_s: float
    slow_s: float
    tokens_per_s: float
    failed: int
    at_least: bool = False


def count(entries: Iterable[LedgerEntry], now: datetime, *, more: bool = False) -> dict[str, Traffic]:
    """The traffic of each deployment, by its id. `more`: older entries match as well."""
    entries = list(entries)
    since = now - WINDOW
    found: dict[str, list[LedgerEntry]] = {}
    for entry in entries:
        if entry.action == ANSWERED and entry.objects and datetime.fromisoformat(entry.time) >= since:
            found.setdefault(entry.objects[0], []).append(entry)
    cut = more and bool(entries) and datetime.fromisoformat(entries[0].time) >= since
    return {deployment: _of(told, cut) for deployment, told in found.items()}


def _of(entries: list[LedgerEntry], cut: bool) -> Traffic:
    took = sorted(_figure(entry, "duration_ms") / 1000 for entry in entries)
    span = WINDOW.total_seconds()
    if cut:  # only what was read is known: reckon over that
        first = datetime.fromisoformat(entries[0].time)
        span = max(1.0, (datetime.fromisoformat(entries[-1].time) - first).total_seconds())
    return Traffic(
        requests=len(entries),
        per_s=len(entries) / span,
        median_s=took[len(took) // 2],
        slow_s=took[min(len(took) - 1, int(len(took) * 0.95))],
        tokens_per_s=sum(_figure(entry, "completion_tokens") for entry in entries) / span,
        failed=sum(entry.details.get("status") != 200 for entry in entries),
        at_least=cut,
    )


def _figure(entry: LedgerEntry, name: str) -> float:
    value = entry.details.get(name)
    return float(value) if isinstance(value, int | float) else 0.0


def told(traffic: Traffic | None) -> Text:
    """In two columns, or that there was none."""
    if traffic is None:
        return styled("none in the last 5 minutes\n", "dim")
    failed = styled(f"× {traffic.failed}", COLOURS["bad"]) if traffic.failed else Text("none")
    return facts(
        [
            ("in 5 minutes", f"{'more than ' if traffic.at_least else ''}{traffic.requests}"),
            ("a second", f"{traffic.per_s:.2g}"),
            ("half took", f"{traffic.median_s:.2f} s at most"),
            ("95 in 100", f"{traffic.slow_s:.2f} s at most"),
            ("tokens/s", f"{traffic.tokens_per_s:.3g}"),
            ("failed", failed),
        ]
    )
