"""`cloister since`: what the next shift wants to know, out of the ledger and the state of the moment.

First what somebody has to see to now, then what went wrong, then what was done. It knows entries, never rows.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from cloister.cli.moments import moment
from cloister.cli.output import JsonFlag, print_json, print_table, say, visible
from cloister.cli.session import connect
from cloister.errors import Denied

if TYPE_CHECKING:
    from cloister.api import Deployment, Job, LedgerEntry, Problem, Run
    from cloister.client import Client

PAGE = 1_000
MOST = 20_000
WIDTH = 80
LOOKED_UP = 50
"""So many things that the entries of this time do not name are looked up in older ones."""
WRONG = (".failed", ".interrupted", ".refused", ".down", ".error", "access.deny", "alert.raised")
ALERTS = ("alert.raised", "alert.cleared", "alert.acknowledged")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Open:
    """Something that somebody has to see to: what, why, and what to do."""

    what: str
    why: str
    remedy: str


@dataclass(frozen=True)
class Wrong:
    """What went wrong with one thing for one reason, however often."""

    action: str
    things: tuple[str, ...]
    who: str
    why: str
    remedy: str
    times: int
    first: str
    last: str
    cleared: str | None = None


@dataclass(frozen=True)
class Known:
    """What there is at this moment, as far as this account may see it."""

    runs: Sequence[Run]
    jobs: Sequence[Job]
    deployments: Sequence[Deployment]

    def names(self) -> dict[str, str]:
        """By id: what it is, and its name."""
        found = {job.job_id: job.verb for job in self.jobs}
        for run in self.runs:
            found[run.run_id] = found[run.train_job.job_id] = f"run {run.name}"
            if run.evaluate_job is not None:
                found[run.evaluate_job.job_id] = f"evaluation of {run.name}"
        return found | {one.deployment_id: f"deployment {one.name}" for one in self.deployments}

    def problems(self) -> dict[str, Problem]:
        """By id: why it ended, in words."""
        found = {job.job_id: job.error for job in self.jobs}
        found |= {one.deployment_id: one.error for one in self.deployments}
        return {thing: problem for thing, problem in found.items() if problem is not None}


def add_commands(app: typer.Typer) -> None:
    """Hang the command into the root."""
    app.command()(since)


def since(
    when: Annotated[str, typer.Argument(help="From then on: 18:00, 8h, 2d, 2026-11-21T14:30 (local time).")],
    json: JsonFlag = False,
) -> None:
    """Say what needs somebody now, what went wrong or was refused since a time, and what was done and by whom.

    What happened comes from the control ledger, each entry checked against its tree.
    """
    now = datetime.now(UTC)
    start = moment(when, "WHEN", now)
    assert start is not None
    with connect() as client:
        refused: Denied | None = None
        entries: list[LedgerEntry] = []
        more = False
        try:
            entries, more = _entries(client, start)
        except Denied as error:
            if not client.whoami().roles:
                raise
            refused = error
        known = Known(_may(client.runs), _may(client.jobs), _may(client.deployments))
        open_now = list(_open(client, known))
        names = _named(client, entries, known)
    wrong = [entry for entry in entries if _went_wrong(entry)]
    told = _wrong(entries, wrong, names, known.problems(), {one.what.split()[1] for one in open_now})
    done = [entry for entry in entries if not _went_wrong(entry) and entry.action not in ALERTS]
    if json:
        print_json(
            {
                "since": start,
                "entries": len(entries) if refused is None else None,
                "more": more,
                "open": [vars(one) for one in open_now],
                "wrong": [entry.model_dump() for entry in wrong],
                "told": [vars(one) for one in told],
                "done": [
                    {"action": action, "actor": actor, "count": count}
                    for (action, actor), count in sorted(_counts(done).items())
                ],
            }
        )
        return
    if refused is not None:
        _show_open(open_now)
        say(f"What happened stands in the ledger: {refused.message}. {refused.remedy}")
        return
    local = datetime.fromisoformat(start).astimezone()
    say(f"Since {local:%a %Y-%m-%d %H:%M}: {len(entries)} entries{', and older ones' if more else ''}.")
    _show(open_now, told)
    last = {(entry.action, entry.actor): _clock(entry.time) for entry in done}
    print_table(
        ("was done", "times", "who", "last"),
        [
            (action, count, actor, last[action, actor])
            for (action, actor), count in sorted(
                _counts(done).items(), key=lambda item: (item[0][1], item[0][0])
            )
        ],
        empty="Nothing was done.",
    )


def _show_open(open_now: Sequence[Open]) -> None:
    print("needs somebody now" if open_now else "Nothing needs somebody now.")
    for one in open_now:
        _line(one.what, 2)
        _line(one.why, 4)
        _line(one.remedy and f"try: {one.remedy}", 4)
    print()


def _show(open_now: Sequence[Open], told: Sequence[Wrong]) -> None:
    _show_open(open_now)
    print("went wrong or was refused" if told else "Nothing went wrong, and nothing was refused.")
    for bad in told:
        times = f", {bad.times} times since {_clock(bad.first)}" if bad.times > 1 else ""
        over = f", over since {_clock(bad.cleared)}" if bad.cleared else ""
        _line(f"{_clock(bad.last)}  {bad.action}, {bad.who}{times}{over}", 2)
        for thing in bad.things:
            _line(thing, 4)
        _line(bad.why, 4)
        _line(bad.remedy and f"try: {bad.remedy}", 4)
    print()


def _line(text: str, indent: int) -> None:
    """Wrapped between words, so that names and ids stay whole."""
    for line in textwrap.wrap(
        visible(text),
        WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + 2),
        break_long_words=False,
        break_on_hyphens=False,
    ):
        print(line)


def _entries(client: Client, start: str) -> tuple[list[LedgerEntry], bool]:
    """The entries since then, oldest first, and whether there are more than can be told."""
    entries: list[LedgerEntry] = []
    before = None
    while True:
        found = client.search_ledger(PAGE, since=start, before=before)
        entries = [*found.entries, *entries]
        if not found.more or len(entries) >= MOST:
            return entries, found.more
        before = found.entries[0].index


def _may(ask: Callable[[], list[Found]]) -> list[Found]:
    """What this account may see of it."""
    try:
        return ask()
    except Denied:
        return []


def _open(client: Client, known: Known) -> Iterator[Open]:
    """What is not over: alerts, requests that wait, work that waits or was cut off."""
    for alert in _may(client.alerts):
        seen = f", seen by {alert.acknowledged_by}" if alert.acknowledged_by else ""
        raised = _clock(alert.raised_at.isoformat())
        yield Open(
            f"alert {alert.key} ({alert.severity}) since {raised}{seen}",
            f"{alert.cause}; affects {alert.affects}",
            alert.command,
        )
    for asked in _may(client.approvals):
        if asked.state == "pending":
            yield Open(
                f"approval {asked.approval_id} waits since {_clock(asked.requested_at.isoformat())}",
                f"{asked.requested_by} asks for {asked.action} on {asked.name} ({asked.classification})",
                f"cloister approval show {asked.approval_id}",
            )
    names = known.names()
    newest = {
        names[job.job_id]: job.job_id for job in known.jobs
    }  # asked for again, the older one is settled
    for job in known.jobs:
        called = f"{names[job.job_id]} ({job.job_id})"
        if job.state == "queued":
            yield Open(
                f"{called} is queued",
                f"it waits for {job.waits_for}" if job.waits_for else "it waits for its turn",
                "",
            )
        elif job.state in ("interrupted", "paused") and newest[names[job.job_id]] == job.job_id:
            error = job.error
            yield Open(
                f"{called} is {job.state}",
                error.detail if error else "",
                (error.remedy if error else None) or f"cloister job resume {job.job_id}",
            )


def _named(client: Client, entries: Iterable[LedgerEntry], known: Known) -> dict[str, str]:
    """By id, what it is called: at this moment, in the entries, and for what went wrong in older ones."""
    names = known.names()
    for entry in entries:
        _take_names(names, entry)
    bare = {job.verb for job in known.jobs}
    makes = {job.job_id: job.subject for job in known.jobs if job.subject is not None}
    missing = [
        thing
        for entry in entries
        if _went_wrong(entry)
        for thing in (makes.get(one, one) for one in entry.objects)
        if names.get(thing, "") in bare | {""}
    ]
    for thing in list(dict.fromkeys(missing))[:LOOKED_UP]:
        for entry in client.search_ledger(20, object=thing).entries:
            _take_names(names, entry)
    for job_id, subject in makes.items():
        if names[job_id] in bare and subject in names:
            names[job_id] += f" of {names[subject]}"
    return names


def _take_names(names: dict[str, str], entry: LedgerEntry) -> None:
    """An entry that names what it is about: its first object by that name."""
    name = entry.details.get("name")
    if not isinstance(name, str) or not entry.objects:
        return
    kind = str(entry.details.get("verb", entry.action.partition(".")[0]))
    for thing in entry.objects[:1]:
        before = names.get(thing)
        names[thing] = before if before and " " in before else f"{before or kind} {name}"


def _wrong(
    entries: Iterable[LedgerEntry],
    wrong: Iterable[LedgerEntry],
    names: dict[str, str],
    problems: dict[str, Problem],
    open_now: set[str],
) -> list[Wrong]:
    """Each thing that went wrong once, by the time it did so last; an alert that is open is told above in words."""
    cleared = {entry.objects[0]: entry for entry in entries if entry.action == "alert.cleared"}
    groups: dict[tuple[str, str, tuple[str, ...], str], list[LedgerEntry]] = {}
    for entry in wrong:
        # Its cause may count something up: an alert is one by its key.
        why = "" if entry.action == "alert.raised" else entry.reason or ""
        called = tuple(names.get(thing, thing) for thing in entry.objects)  # tried again, it has another id
        groups.setdefault((entry.action, entry.actor, called, why), []).append(entry)
    found = []
    for (action, actor, _, _), those in groups.items():
        last = those[-1]
        objects = last.objects
        problem = next((problems[thing] for thing in objects if thing in problems), None)
        over = cleared.get(objects[0]) if action == "alert.raised" and objects else None
        asked = " ".join(str(last.details[one]) for one in ("asked", "thing") if last.details.get(one))
        things = [f"{names[thing]} ({thing})" if thing in names else thing for thing in objects]
        told = problem is not None and last.reason in (problem.code, problem.detail)
        found.append(
            Wrong(
                action=action,
                things=tuple(things or ([asked] if asked else [])),
                who=actor,
                why=(
                    "open still, see above"
                    if action == "alert.raised" and open_now.intersection(objects)
                    else problem.detail
                    if problem is not None and told
                    else last.reason or ""
                ),
                remedy=(problem.remedy if problem is not None and told else None) or "",
                times=len(those),
                first=those[0].time,
                last=last.time,
                cleared=over.time if over is not None and over.index > last.index else None,
            )
        )
    return sorted(found, key=lambda one: one.last)


def _went_wrong(entry: LedgerEntry) -> bool:
    return entry.decision in ("deny", "refused") or entry.action.endswith(WRONG)


def _counts(entries: Iterable[LedgerEntry]) -> Counter[tuple[str, str]]:
    return Counter((entry.action, entry.actor) for entry in entries if entry.decision != "attempt")


def _clock(time: str) -> str:
    return f"{datetime.fromisoformat(time).astimezone():%a %H:%M:%S}"
