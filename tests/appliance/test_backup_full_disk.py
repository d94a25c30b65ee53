"""A target that is too small: no half archive, a clear error, and the next backup uses what was copied."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.appliance.test_backups import OPENER, back_up
from tests.conftest import Appliance, import_rows

from cloister.errors import NotFound, OutOfSpace
from cloister.restoring import backups_in, restore


@pytest.fixture
def small_target() -> Iterator[Path]:
    disk = Path(tempfile.mkdtemp(prefix="disk"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        disk.rmdir()
        pytest.skip(f"a file system of its own cannot be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)
    disk.rmdir()


def big_rows(seed: int) -> list[dict[str, object]]:
    return [
        {
            "messages": [
                {"role": "user", "content": f"{seed} {number} " + os.urandom(5_000).hex()},
                {"role": "assistant", "content": "yes"},
            ]
        }
        for number in range(150)
    ]


def test_a_full_target_is_left_without_a_half_archive(
    appliance: Appliance, small_target: Path, tmp_path: Path
) -> None:
    for number in range(3):
        import_rows(appliance.client, f"big{number}", big_rows(number))
    with pytest.raises(OutOfSpace) as caught:
        back_up(appliance.client, small_target)
    assert caught.value.where is not None and caught.value.where.startswith(str(small_target))
    assert caught.value.exit_code == 10
    assert list(small_target.rglob("*.part")) == []
    assert list(small_target.rglob("*.age")) == list(small_target.glob("*.json")) == []
    with pytest.raises(NotFound):
        backups_in(small_target)
    packs = {path.name for path in (small_target / "packs").iterdir()}
    assert packs, "what was copied whole stays, for the next one"
    assert appliance.client.backups() == []
    actions = [entry.action for entry in appliance.client.entries(0, 1000)]
    last = [action for action in actions if not action.startswith("alert.")][-1]  # those come when they come
    assert last == "backup.failed"
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_target)], check=True)
    made = back_up(appliance.client, small_target)
    assert (made["packs"], made["copied"]) == (3, 3 - len(packs))
    assert restore(small_target, tmp_path / "h", OPENER, check=True).objects == 3
