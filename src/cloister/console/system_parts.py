"""The parts of the system as lines, and each of them as a text: words and numbers only, nothing is asked."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from cloister.console.disks import LOW_BYTES
from cloister.console.paint import COLOURS, facts, grid, outside, stack, state, styled, titled
from cloister.console.picture import Picture
from cloister.console.remedies import tried
from cloister.home import Home
from cloister.shown import counted, moment, size, visible

if TYPE_CHECKING:
    from cloister.api import PolicyTable, Status

SETTINGS_SHOWN = 20_000
DEMANDS = {"yes": "●", "approval": "▲", "signed approval": "▲s", "no": "·"}
WORDS = {"good": "ok", "warn": "warn", "bad": "BAD"}

Findings = Sequence[Mapping[str, Any]]
"""What `cloister doctor` found."""


def listed(picture: Picture, findings: Findings | None) -> list[tuple[str, tuple[Text, Text, Text]]]:
    """One line a part: its key, then what it is called, how it is, what is in it."""
    status, who = picture.status, picture.whoami
    if status is None:
        return []
    bad = [process.name for process in status.processes if process.state != "running"]
    kept = [one for one in picture.backups if one.discarded_at is None]
    down = [one.name for one in status.sinks if one.down_s is not None]
    you = f"{who.account}: {', '.join(who.roles)}" if who else ""
    rows: list[tuple[str, str, Text, object]] = [
        ("processes", "processes", _good(not bad), ", ".join(bad) or "authority, launcher, gateway"),
        ("doctor", "doctor", _fit(findings), "what this machine promises, and what not"),
        ("you", "you", Text(""), you),
        ("policy", "policy", Text(""), f"who may do what; set {who.policies[:12] if who else ''}"),
        ("settings", "settings", Text(""), _settings_file(picture)),
        (
            "slots",
            "unlock slots",
            _let(picture, "slots"),
            counted(len(picture.slots), "way") + " to open the vault",
        ),
        ("backups", "backups", _let(picture, "backups"), f"{len(kept)} whose keys are kept"),
        ("disks", "disks", *_disk_line(status.home)),
        ("devices", "devices", Text(""), counted(len(status.gpus), "GPU") if status.gpus else "CPU only"),
        ("sinks", "audit sinks", *_sinks_line(status, down)),
    ]
    return [(key, (Text(name), told, outside(more, 120))) for key, name, told, more in rows]


def doctor(findings: Findings | None, problem: str | None) -> Text:
    """What the check of this machine found, each with what to do."""
    if findings is None:
        return _unshown(problem) or Text("d, or Enter, looks at this machine.", "dim")
    parts = [
        state(WORDS.get(one["state"], "?"), one["state"] if one["state"] in WORDS else "off")
        + Text("  ")
        + outside(f"{one['check']}: {one['finding']}")
        + (styled("\n      try: ", "dim") + tried(one["remedy"], "") if one.get("remedy") else Text(""))
        for one in findings
    ]
    return titled("This machine", Text("\n").join(parts))


def policies(table: PolicyTable | None, problem: str | None) -> Text:
    """Who may do what, by the policies in force."""
    if table is None:
        return _unshown(problem) or Text("Enter reads them.", "dim")
    roles = [role for role in dict.fromkeys(cell.role for cell in table.cells) if role != "none"]
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for cell in table.cells:
        name = cell.action + (f" {cell.form}" if cell.form else "")
        told = rows.setdefault(
            (name, cell.kind if cell.classification == "any" else f"{cell.kind}, {cell.classification}"), {}
        )
        told[cell.role] = DEMANDS.get(cell.demand, cell.demand)
    body = [(name, kind, *(told.get(role, "·") for role in roles)) for (name, kind), told in rows.items()]
    legend = "● may  ▲ with somebody else's approval  ▲s signed  · may not.  e explains."
    return stack(Text(legend, "dim"), grid(body, ("action", "on", *(visible(role)[:3] for role in roles))))


def _fit(findings: Findings | None) -> Text:
    if findings is None:
        return Text("d checks")
    bad = sum(one["state"] == "bad" for one in findings)
    return state(f"{bad} bad", "bad") if bad else state("fit", "good")


def _good(well: bool) -> Text:
    return state("good") if well else state("bad")


def _sinks_line(status: Status, down: list[str]) -> tuple[Text, str]:
    if not status.sinks:
        return Text("none", "dim"), "the ledgers are exported nowhere"
    return _good(not down), ", ".join(down) or counted(len(status.sinks), "sink")


def _let(picture: Picture, shelf: str) -> Text:
    return Text("× denied", COLOURS["bad"]) if shelf in picture.refused else Text("")


def _unshown(why: str | None) -> Text | None:
    return styled("Not shown: ", "bold red") + outside(why) if why else None


def _processes(picture: Picture) -> Text:
    status = picture.status
    assert status is not None
    rows = [
        (one.name, state(one.state, "good" if one.state == "running" else "bad"), one.detail or "")
        for one in status.processes
    ]
    return stack(
        grid(rows),
        facts(
            [
                ("home", status.home),
                ("version", status.version),
                ("sandbox", status.sandbox),
                ("gateway", status.gateway_url),
            ]
        ),
        *(styled("▲ ", COLOURS["warn"]) + outside(warning) for warning in status.warnings),
    )


def _you(picture: Picture) -> Text:
    who = picture.whoami
    if who is None:
        return Text("")
    return stack(
        facts(
            [
                ("account", f"{who.account} (uid {who.uid})"),
                ("roles", ", ".join(who.roles)),
                ("groups", ", ".join(who.groups)),
            ]
        ),
        Text("This appliance belongs to the one account that runs it.", "dim") if who.sole else Text(""),
        titled("May", outside(", ".join(who.actions), 8000)),
    )


def _settings_file(picture: Picture) -> Path:
    assert picture.status is not None
    return Home(Path(picture.status.home)).settings_file


def _settings(picture: Picture) -> Text:
    path = _settings_file(picture)
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return stack(outside(path), Text("There is no such file: every setting has its default."))
    except OSError as error:
        return stack(outside(path), styled("× ", "bold red") + outside(error.strerror or "cannot be read"))
    return stack(outside(path, style="bold"), Text(visible(text, lines=True, limit=SETTINGS_SHOWN)))


def _slots(picture: Picture) -> Text:
    if "slots" in picture.refused:
        return _unshown(picture.refused["slots"]) or Text("")
    rows = [(str(one.slot), one.kind, state(one.state), one.detail) for one in picture.slots]
    return stack(
        grid(rows, ("slot", "opens by", "", "")),
        Text("n adds one, x ends one; `cloister vault slot add` knows all kinds.", "dim"),
    )


def _backups(picture: Picture) -> Text:
    if "backups" in picture.refused:
        return _unshown(picture.refused["backups"]) or Text("")
    rows = [
        (
            one.backup_id,
            moment(one.made_at),
            "destroyed" if one.discarded_at else f"until {one.keys_until:%Y-%m-%d}",
            size(one.copied_bytes),
            one.where,
        )
        for one in picture.backups
    ]
    if not rows:
        return Text("No backup yet. b makes one; so does `cloister backup FOLDER --recipient age1…`.")
    return grid(rows, ("backup", "made", "its keys", "copied", "where"))


def _disk(home: str) -> tuple[int, int] | None:
    """Free and all bytes of the disk below the home; None where this account cannot look."""
    try:
        usage = shutil.disk_usage(home)
    except OSError:
        return None
    return usage.free, usage.total


def _disk_line(home: str) -> tuple[Text, str]:
    found = _disk(home)
    if found is None:
        return Text(""), "cannot be looked at by this account"
    free, total = found
    return _good(free >= LOW_BYTES), f"{size(free)} of {size(total)} free below the home"


def _devices(picture: Picture) -> Text:
    status = picture.status
    assert status is not None
    if not status.gpus:
        return Text("No GPU: everything runs on the CPU.")
    rows = [
        (
            str(gpu.number),
            gpu.name,
            state(gpu.problem, "bad") if gpu.problem else state("good"),
            f"{size(gpu.memory_used or 0)} of {size(gpu.memory_total or 0)}",
            f"{gpu.utilisation_percent or 0}%",
            f"{gpu.temperature_c or '?'} °C",
            ", ".join(gpu.holders) or "free",
        )
        for gpu in status.gpus
    ]
    return grid(rows, ("GPU", "name", "", "memory", "busy", "", "held by"))


def _sinks(picture: Picture) -> Text:
    status = picture.status
    assert status is not None
    if not status.sinks:
        return Text("The ledgers are exported nowhere: `ledger.sinks` in the settings.")
    rows = [
        (
            one.name,
            _good(one.down_s is None),
            f"{one.behind} wait, {one.sent} sent",
            one.to,
            one.problem or "",
        )
        for one in status.sinks
    ]
    return grid(rows, ("sink", "", "", "to", ""))


ABOUT: dict[str, Callable[[Picture], Text]] = {
    "processes": _processes,
    "you": _you,
    "settings": _settings,
    "slots": _slots,
    "backups": _backups,
    "devices": _devices,
    "sinks": _sinks,
}
"""What is known of each part without asking anybody."""
