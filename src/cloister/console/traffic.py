"""Requests, counted from the gateway's ledger: how many, how slow, how many tokens, whose; and how engines stand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from rich.text import Text

from cloister.console.paint import COLOURS, ago, bar, facts, styled
from cloister.errors import CloisterError
from cloister.shown import figure, moment

if TYPE_CHECKING:
    from cloister.api import EngineLoad, LedgerEntry, LedgerMatches
    from cloister.client import Client

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


@dataclass(frozen=True)
class Use:
    """What one client asked, among the newest `READ` requests: how many, tokens in and out, the last one's time."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    failed: int
    last: datetime


def read_answers(client: Client) -> LedgerMatches:
    """The newest requests that were answered. Errors: those of the authority."""
    return client.search_ledger(READ, ledger="gateway", action=ANSWERED)


def read_now(client: Client, *, counts: bool) -> tuple[LedgerMatches | None, list[EngineLoad]]:
    """The newest answers, where they may be counted, and what engines say, where it may be asked. Errors: those of
    the ledger."""
    answered = read_answers(client) if counts else None
    try:
        return answered, client.engine_loads()
    except CloisterError:
        return answered, []


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


def used(entries: Iterable[LedgerEntry]) -> dict[str, Use]:
    """What each client asked, by its id."""
    found: dict[str, list[LedgerEntry]] = {}
    for entry in entries:
        if entry.action == ANSWERED:
            found.setdefault(entry.actor, []).append(entry)
    return {
        client: Use(
            requests=len(asked),
            prompt_tokens=int(sum(_figure(entry, "prompt_tokens") for entry in asked)),
            completion_tokens=int(sum(_figure(entry, "completion_tokens") for entry in asked)),
            failed=sum(entry.details.get("status") != 200 for entry in asked),
            last=datetime.fromisoformat(asked[-1].time),
        )
        for client, asked in found.items()
    }


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
            ("a second", f"{figure(traffic.per_s, 2)}"),
            ("half took", f"{traffic.median_s:.2f} s at most"),
            ("95 in 100", f"{traffic.slow_s:.2f} s at most"),
            ("tokens/s", f"{figure(traffic.tokens_per_s, 3)}"),
            ("failed", failed),
        ]
    )


def told_use(use: Use | None, now: datetime, *, looked_back: datetime | None) -> Text:
    """What a client asked, or that it asked nothing. `looked_back`: older requests were not looked at."""
    since = f" since {moment(looked_back)}" if looked_back is not None else ""
    if use is None:
        return styled(f"none{since}\n", "dim")
    failed = styled(f"× {use.failed}", COLOURS["bad"]) if use.failed else Text("none")
    return facts(
        [
            ("requests", f"{use.requests:,}{since}"),
            ("last", f"{ago(use.last, now)} ago"),
            ("tokens", f"{use.prompt_tokens:,} in, {use.completion_tokens:,} out"),
            ("failed", failed),
        ]
    )


def cached(load: EngineLoad | None) -> Text:
    """How full an engine's cache is, in a few columns."""
    return Text("-", "dim") if load is None or load.cache_used is None else Text(f"{load.cache_used:.0%}")


def told_load(load: EngineLoad | None) -> Text:
    """What an engine says of itself; nothing where it says nothing."""
    if load is None:
        return Text()
    work = [] if load.running is None else [f"{load.running:,} at work"]
    work += [] if load.waiting is None else [f"{load.waiting:,} wait"]
    share = load.cache_used
    reused = (
        f"{(load.cache_found or 0) / load.cache_asked:.0%} of {load.cache_asked:,} prompt tokens"
        if load.cache_asked
        else ""
    )
    return facts(
        [
            ("now", ", ".join(work)),
            ("cache in use", "" if share is None else f"{bar(share)} {share:.0%}"),
            ("found in it", reused),
        ]
    )
