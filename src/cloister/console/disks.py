"""The file systems that the appliance and its operators write to: what lies on each, and what is free there.

It only looks, as far as this account may. A mounted share can keep whoever looks waiting: it is looked at in a thread.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from cloister.console.paint import COLOURS, bar, facts, outside, stack, state, styled
from cloister.home import Home
from cloister.shown import size

if TYPE_CHECKING:
    from cloister.console.picture import Picture

LOW_BYTES = 5 << 30
CLOSED = "closed to this account: `df` on the machine tells"


@dataclass(frozen=True)
class Disk:
    """One file system, by the first of the places on it. `free` and `total` are bytes; None where it cannot be looked
    at, with why."""

    path: str
    holds: tuple[str, ...]
    free: int | None = None
    total: int | None = None
    problem: str | None = None


def places(picture: Picture) -> list[tuple[str, Path]]:
    """What is written where, the home first: its parts, backups whose keys are kept, sinks that are files, what
    commands write for a moment."""
    assert picture.status is not None
    home = Home(Path(picture.status.home))
    found = [
        ("home", home.root),
        ("state", home.state.parent),
        ("objects", home.objects),
        ("keys", home.keys),
        ("ledgers", home.control_ledger.parent),
        ("kept prompts and answers", home.bodies),
        ("work in progress", home.work),
        ("logs", home.logs),
        ("temporary files of commands", Path(tempfile.gettempdir())),
    ]
    for sink in picture.status.sinks:
        if sink.to.startswith("file:///"):
            found.append((f"sink {sink.name}", Path(sink.to.removeprefix("file://")).parent))
    for backup in picture.backups:
        where = Path(backup.where)
        named = (f"backup in {backup.where}", where)
        if backup.discarded_at is None and where.is_absolute() and named not in found:
            found.append(named)
    return found


def device_of(path: Path) -> int:
    """The number of the file system that a place is on. Errors: OSError."""
    return path.stat().st_dev


def look(found: Sequence[tuple[str, Path]]) -> list[Disk]:
    """The file systems of these places, in their order; a part of the home that is not made yet is left out."""
    disks: dict[int | str, Disk] = {}
    for name, path in found:
        try:
            device: int | str = device_of(path)
            usage = shutil.disk_usage(path)
            seen = Disk(str(path), (name,), usage.free, usage.total)
        except FileNotFoundError:
            if path.is_relative_to(found[0][1]) and path != found[0][1]:
                continue
            device, seen = name, Disk(str(path), (name,), problem="is not there now")
        except PermissionError:
            device, seen = CLOSED, Disk(str(path), (name,), problem=CLOSED)
        except OSError as error:
            device, seen = name, Disk(str(path), (name,), problem=error.strerror)
        before = disks.get(device)
        disks[device] = replace(before, holds=(*before.holds, name)) if before is not None else seen
    return list(disks.values())


def told(disks: Sequence[Disk] | None) -> Text:
    """Each with its free space; None where nobody has looked yet."""
    if disks is None:
        return Text("Enter looks at every file system that something is written to.", "dim")
    return stack(
        *map(_one, disks), Text("An alert tells when the home's is low: `alerts.disk_low_gib`.", "dim")
    )


def _one(disk: Disk) -> Text:
    if disk.free is None or not disk.total:
        why = styled("× ", COLOURS["bad"]) + outside(disk.problem or "its size is not known")
        return stack(outside(disk.path, style="bold"), facts([("for", ", ".join(disk.holds)), ("", why)]))
    used = disk.total - disk.free
    low = state("low", "warn") if disk.free < LOW_BYTES else Text("")
    return stack(
        outside(disk.path, style="bold") + Text("  ") + low,
        facts(
            [
                ("for", ", ".join(disk.holds)),
                ("used", f"{bar(used / disk.total)} {size(used)} of {size(disk.total)}"),
                ("free", size(disk.free)),
            ]
        ),
    )
