"""System: the file systems that something is written to, those beside the home's, too."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from console_world import console, until
from recorded import NOW, Recorded

from cloister.api import SinkStatus
from cloister.console import disks
from cloister.console.picture import Picture

MANY = 1 << 40


def furnished(tmp_path: Path) -> tuple[Path, Recorded]:
    """A home with its parts, a backup elsewhere, one on a disk that was taken away, a sink that is a file."""
    home, client = tmp_path / "home", Recorded()
    for part in ("state", "objects", "bodies"):
        (home / part).mkdir(parents=True)
    (tmp_path / "kept").mkdir()
    one = client.answers["backups"][0]
    client.answers["backups"] = [
        one.model_copy(update={"where": str(where), "discarded_at": None})
        for where in (tmp_path / "kept", tmp_path / "kept", tmp_path / "gone", "a stick")
    ]
    sink = SinkStatus(
        name="siem", to=f"file://{tmp_path / 'kept' / 'out.jsonl'}", required=False, behind=0, sent=0
    )
    client.answers["status"] = client.answers["status"].model_copy(
        update={"home": str(home), "sinks": [sink]}
    )
    return home, client


def test_what_lies_on_a_file_system_of_its_own_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, client = furnished(tmp_path)
    picture = Picture(status=client.answers["status"], backups=tuple(client.answers["backups"]))
    found = disks.places(picture)
    assert [path for _, path in found].count(tmp_path / "kept") == 2, "as a sink's and once as a backup's"
    really = disks.device_of

    def device_of(path: Path) -> int:
        return {"objects": -7, "kept": -8}.get(path.name, 0 * really(path))

    monkeypatch.setattr(disks, "device_of", device_of)
    monkeypatch.setattr(
        disks.shutil, "disk_usage", lambda _: SimpleNamespace(total=MANY, free=disks.LOW_BYTES - 1)
    )
    seen = disks.look(found)
    assert [(one.path, one.holds) for one in seen] == [
        (str(home), ("home", "state", "kept prompts and answers", "temporary files of commands")),
        (str(home / "objects"), ("objects",)),
        (str(tmp_path / "kept"), ("sink siem", f"backup in {tmp_path / 'kept'}")),
        (str(tmp_path / "gone"), (f"backup in {tmp_path / 'gone'}",)),
    ]
    assert seen[-1].problem == "is not there now"
    told = disks.told(seen).plain
    assert told.count("▲ low") == 3 and "× is not there now" in told and "1.0 TiB" in told


def test_what_is_closed_to_the_account_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, client = furnished(tmp_path)
    picture = Picture(status=client.answers["status"])
    really = disks.device_of

    def device_of(path: Path) -> int:
        if path.is_relative_to(home):
            raise PermissionError(13, "Permission denied", str(path))
        return really(path)

    monkeypatch.setattr(disks, "device_of", device_of)
    first, *others = disks.look(disks.places(picture))
    assert first.holds[:3] == ("home", "state", "objects") and first.problem == disks.CLOSED
    assert all(one.problem is None for one in others)


def test_the_disks_are_looked_at_when_they_are_opened(tmp_path: Path) -> None:
    _, client = furnished(tmp_path)
    make: Any = lambda: client  # noqa: E731

    async def walk() -> None:
        async with console(make, clock=lambda: NOW) as (app, pilot):
            await until(app, lambda text: "alert" in text)
            await pilot.press("8")
            await until(app, lambda text: "unlock slots" in text)
            await pilot.press("slash", *"disks", "enter")
            await until(app, lambda text: "Enter looks at every file system" in text)
            await pilot.press("enter")
            await until(app, lambda text: "temporary files" in text and "is not there now" in text)

    asyncio.run(walk())
    client.close()
