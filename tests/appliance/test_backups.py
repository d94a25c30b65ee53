"""Backups of a working appliance, and homes that are restored from them."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyrage
import pytest
from tests.appliance.test_shredding import CANARY, holding, key_bytes, rows
from tests.conftest import LOOPBACK, PASSPHRASE, Appliance, import_rows, start_appliance

from cloister import embedded
from cloister.api import BackupRequest, ClientRequest, ShredRequest
from cloister.client import Client
from cloister.demo.search import find_bytes, find_leaks
from cloister.errors import CloisterError, Conflict, InvalidInput, NotFound, Tampered, Unauthenticated
from cloister.home import Home
from cloister.restoring import Opener, backups_in, opener_of, restore
from cloister.vault import Vault
from cloister.vault.bodies import SealedBody
from cloister.vault.body_store import BodyStore
from cloister.verifier import verify_log

IDENTITY = pyrage.x25519.Identity.generate()
RECIPIENT = str(IDENTITY.to_public())
OPENER = Opener(identities=(IDENTITY,))


BODY = SealedBody(b"c" * 32, "prompt", 3, b"sealed-body-" * 9, b"capsule-of-it-" * 9)


def back_up(client: Client, folder: Path, **more: Any) -> dict[str, Any]:
    request = BackupRequest(where=str(folder), **({"recipients": (RECIPIENT,)} | more))
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        job = client.back_up(request, {"objects": descriptor})
    finally:
        os.close(descriptor)
    return client.finished_job(job.job_id).result


@dataclass(frozen=True)
class Made:
    appliance: Appliance
    folder: Path
    first: dict[str, Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """An appliance with two datasets, and one backup of it."""
    appliance = start_appliance(tmp_path_factory.mktemp("home"))
    folder = tmp_path_factory.mktemp("backup")
    import_rows(appliance.client, "one", rows())
    import_rows(appliance.client, "two", rows())
    with closing(BodyStore(appliance.home.bodies)) as bodies:
        bodies.keep([BODY], "2026-11-21")
    yield Made(appliance, folder, back_up(appliance.client, folder))
    appliance.client.close()
    embedded.stop(appliance.home)


@pytest.fixture
def place() -> Iterator[Path]:
    """Where a home may be restored: not there yet, of a path short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
    yield folder / "h"
    shutil.rmtree(folder)


def test_no_data_key_lies_open_in_a_home_or_in_its_backup(made: Made) -> None:
    home = made.appliance.home
    with closing(Vault.open(home.keys)) as vault:
        vault.unlock(PASSPHRASE.encode())
        versions = vault.keyed_versions()
        keys = [vault.data_key(object_id, version) for object_id, version in versions]
    assert len(keys) >= 2
    written = [form for key in keys for form in (key, key.hex().encode(), base64.b64encode(key)[:40])]
    assert find_bytes(written, [home.root, made.folder]) == []
    for object_id, _ in versions:  # wrapped they are found, so they would be
        assert holding(home.root, key_bytes(made.appliance, object_id))


def test_a_restored_home_runs_opens_and_goes_on_with_its_ledger(made: Made, place: Path) -> None:
    client = made.appliance.client
    client.issue_client(ClientRequest(name="later"))
    entries = client.ledger().entries
    home = Home(place)
    done = restore(made.folder, home.root, OPENER, by="alice")
    assert (done.objects, done.keys, done.lost_entries) == (2, 2, 0)
    assert done.ledgers["control"] < entries
    with closing(BodyStore(home.bodies)) as bodies:
        kept = bodies.fetch(BODY.commitment)
    assert (kept.sealed, kept.capsule) == (BODY.sealed, BODY.capsule)
    embedded.start(home, listen=LOOPBACK)
    try:
        with Client(home.authority_socket) as restored:
            assert restored.status().locked
            restored.unlock(PASSPHRASE)
            assert [d.manifest_sha256 for d in restored.datasets()] == [
                d.manifest_sha256 for d in client.datasets()
            ]
            found = restored.entries(done.ledgers["control"], 100)
            told = next(entry for entry in found if entry.action == "appliance.restored")
            assert told.objects == [made.first["backup_id"]]
            assert told.details["by"] == "alice"
            assert [b.backup_id for b in restored.backups()] == [made.first["backup_id"]]
            import_rows(restored, "three", rows())
            dataset = restored.dataset("one")
            plan = restored.shred_plan("datasets", "one")
            assert [backup.backup_id for backup in plan.backups] == [made.first["backup_id"]]
            assert restored.shred("datasets", "one", ShredRequest(confirm="one")).keys == 1
            assert key_bytes(Appliance(home, restored), dataset.object_id) == []
            restored.flush_ledger()
            ledger = home.gateway_ledger
            before = done.ledgers["gateway"]
            assert before > 0
            end = time.monotonic() + 120
            while verify_log(ledger, (ledger / "vkey").read_text()).entries <= before:
                assert time.monotonic() < end, "the gateway goes on with its own"
                time.sleep(0.05)
            report = verify_log(ledger, (ledger / "vkey").read_text())
            assert not report.problems
        assert not (home.state.parent / "restored.json").exists()
    finally:
        embedded.stop(home)
    vkey = (made.appliance.home.control_ledger / "vkey").read_text().strip()
    before = (made.appliance.home.control_ledger / "checkpoint").read_bytes()
    assert not verify_log(home.control_ledger, vkey).problems
    report = verify_log(home.control_ledger, vkey, since=before)
    assert report.problems, "the first home's ledger went another way: a fork, which a witness sees"


def test_objects_are_copied_once(made: Made, place: Path) -> None:
    assert (made.first["packs"], made.first["copied"]) == (2, 2)
    packs = {path.name: path.stat().st_mtime_ns for path in (made.folder / "packs").iterdir()}
    again = back_up(made.appliance.client, made.folder, quick=True)
    assert (again["packs"], again["copied"], again["copied_bytes"]) == (2, 0, 0)
    assert {path.name: path.stat().st_mtime_ns for path in (made.folder / "packs").iterdir()} == packs
    assert [index.backup_id for index in backups_in(made.folder)][-1] == again["backup_id"]
    listed = made.appliance.client.backups()
    assert [b.backup_id for b in listed] == [made.first["backup_id"], again["backup_id"]]
    assert all(b.keys_sha256 and b.objects_sha256 for b in listed)
    actions = [e.action for e in made.appliance.client.entries(0, 1000)]
    assert actions.count("backup.make") == actions.count("backup.made") == 2
    assert restore(made.folder, place, OPENER, check=True).backup_id == again["backup_id"]
    first = restore(made.folder, place, OPENER, backup_id=made.first["backup_id"], check=True)
    assert first.backup_id == made.first["backup_id"]


def test_a_rehearsal_leaves_nothing(made: Made, place: Path) -> None:
    done = restore(made.folder, place, OPENER, check=True)
    assert done.home is None
    assert list(place.parent.iterdir()) == []


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x40
    path.write_bytes(data)


@pytest.mark.parametrize("where", ["index", "objects", "keys", "packs"])
def test_one_damaged_byte_is_found_and_named(made: Made, place: Path, tmp_path: Path, where: str) -> None:
    copy = tmp_path / "copy"
    backup_id = made.first["backup_id"]
    for part in (0.0, 0.3, 0.6, 0.999):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(made.folder, copy)
        path = {
            "index": copy / f"{backup_id}.json",
            "objects": copy / "objects" / f"{backup_id}.tar",
            "keys": copy / "keys" / f"{backup_id}.age",
            "packs": next((copy / "packs").iterdir()),
        }[where]
        flip(path, int(part * path.stat().st_size))
        with pytest.raises(Tampered, match=path.name) as caught:
            restore(copy, place, OPENER, backup_id=backup_id)
        assert caught.value.exit_code == 7
        assert not (place).exists()
    path.unlink()
    with pytest.raises(NotFound, match=path.name if where != "index" else "no backup"):
        restore(copy, place, OPENER, backup_id=backup_id)
    assert list(place.parent.iterdir()) == []


ONTO_A_MOUNT = """
import json, sys
from contextlib import closing
from pathlib import Path
import pyrage
from cloister.errors import Conflict, Unauthenticated
from cloister.home import Home
from cloister.restoring import Opener, restore
from cloister.vault import Vault
from cloister.verifier import verify_log
folder, place, passphrase = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
opener = Opener(identities=(pyrage.x25519.Identity.from_str(sys.stdin.read()),))
(place / "lost+found").mkdir()
told = {"wrong": [], "again": ""}
try:
    restore(folder, place, Opener(passphrase="x"))
except Unauthenticated:
    told["wrong"] = sorted(path.name for path in place.iterdir())
told["rehearsed"] = restore(folder, place, opener, check=True).home
told["then"] = sorted(path.name for path in place.iterdir())
told["objects"] = restore(folder, place, opener).objects
try:
    restore(folder, place, opener)
except Conflict as error:
    told["again"] = error.message
home = Home(place)
with closing(Vault.open(home.keys)) as vault:
    vault.unlock(passphrase.encode())
    told["keys"] = len(vault.keyed_versions())
told["problems"] = verify_log(home.control_ledger, (home.control_ledger / "vkey").read_text().strip()).problems
told["drafts"] = [path.name for at in (place, place.parent) for path in at.glob(".*")]
told["mode"] = oct(place.stat().st_mode & 0o777)
print(json.dumps(told))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
@pytest.mark.parametrize("mount", ["mount -t tmpfs none", 'mount --bind "$place"'])
def test_a_home_that_is_a_disk_of_its_own_is_restored_too(made: Made, place: Path, mount: str) -> None:
    place.mkdir()
    tried = subprocess.run(
        ["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /mnt"], capture_output=True, text=True
    )
    if tried.returncode:
        pytest.skip(f"nothing can be mounted here: {tried.stderr.strip()}")
    script = f'place=$1; {mount} "$place"; shift; exec "$@"'
    inner = [sys.executable, "-c", ONTO_A_MOUNT, str(made.folder), str(place), PASSPHRASE]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", script, "sh", str(place), *inner],
        input=str(IDENTITY),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["wrong"] == told["then"] == ["lost+found"]
    assert told["rehearsed"] is None and (told["objects"], told["keys"]) == (2, 2)
    assert "empty folder" in told["again"]
    assert told["problems"] == told["drafts"] == []
    assert told["mode"] == "0o700"


def test_archives_of_two_backups_do_not_mix(made: Made, place: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(made.folder, copy)
    other = back_up(made.appliance.client, copy)["backup_id"]
    backup_id = made.first["backup_id"]
    (copy / "keys" / f"{other}.age").replace(copy / "keys" / f"{backup_id}.age")
    with pytest.raises(Tampered, match=rf"{backup_id}\.age"):
        restore(copy, place, OPENER, backup_id=backup_id)


def test_the_wrong_identity_opens_nothing(made: Made, place: Path) -> None:
    other = Opener(identities=(pyrage.x25519.Identity.generate(),))
    with pytest.raises(Unauthenticated, match="does not open with this identity"):
        restore(made.folder, place, other)
    with pytest.raises(Unauthenticated):
        restore(made.folder, place, Opener(passphrase="x"))
    with pytest.raises(InvalidInput, match="not an identity"):
        opener_of("AGE-SECRET-KEY-1FALSE", None)
    assert not (place).exists()


def test_a_passphrase_does_too_and_keys_may_lie_elsewhere(made: Made, place: Path, tmp_path: Path) -> None:
    objects, keys = tmp_path / "o", tmp_path / "k"
    objects.mkdir()
    keys.mkdir()
    request = BackupRequest(where="o", passphrase="open sesame")
    descriptors = {"objects": os.open(objects, os.O_RDONLY), "keys": os.open(keys, os.O_RDONLY)}
    job = made.appliance.client.back_up(request, descriptors)
    made.appliance.client.finished_job(job.job_id)
    for descriptor in descriptors.values():
        os.close(descriptor)
    assert [path.suffix for path in keys.iterdir()] == [".age"]
    assert not (objects / "keys").exists()
    done = restore(objects, place, Opener(passphrase="open sesame"), keys=keys)
    assert done.objects == 2
    with pytest.raises(Conflict, match="empty folder"):
        restore(objects, place, Opener(passphrase="open sesame"), keys=keys)
    for root in (made.appliance.home.root, objects, keys):
        assert holding(root, [b"open sesame"]) == []


def test_neither_archive_shows_content_or_keys(made: Made) -> None:
    assert find_leaks(CANARY, [made.folder]) == []
    wrapped = [
        key for d in made.appliance.client.datasets() for key in key_bytes(made.appliance, d.object_id)
    ]
    assert len(wrapped) >= 2
    wrapped.append(BODY.capsule)
    assert holding(made.appliance.home.root, wrapped)
    assert holding(made.folder, wrapped) == []
    assert holding(made.folder, [BODY.sealed]), "the sealed body lies with the objects"


def test_a_newer_head_tells_of_lost_entries(made: Made, place: Path) -> None:
    client = made.appliance.client
    last = backups_in(made.folder)[-1].backup_id
    old = (made.appliance.home.control_ledger / "checkpoint").read_bytes()
    assert restore(made.folder, place, OPENER, check=True).lost_entries == 0
    client.issue_client(ClientRequest(name="newer"))
    client.flush_ledger()
    head = (made.appliance.home.control_ledger / "checkpoint").read_bytes()
    assert head != old
    with pytest.raises(Conflict, match=r"entries were made after it") as caught:
        restore(made.folder, place, OPENER, head=head)
    lost = caught.value.values["lost_entries"]
    assert lost > 0
    done = restore(made.folder, place, OPENER, head=head, accept_lost=True)
    assert (done.lost_entries, done.backup_id) == (lost, last)
    with pytest.raises(InvalidInput, match="not a tree head of this ledger"):
        restore(made.folder, place.with_name("x"), OPENER, head=head.replace(b"\n\n", b"0\n\n", 1))
    with pytest.raises(InvalidInput, match="of no ledger"):
        restore(made.folder, place.with_name("x"), OPENER, head=b"other\n1\nAAAA\n\n")


def test_a_backup_after_that_head_continues_it(made: Made, place: Path) -> None:
    made.appliance.client.flush_ledger()
    head = (made.appliance.home.control_ledger / "checkpoint").read_bytes()
    back_up(made.appliance.client, made.folder)
    assert restore(made.folder, place, OPENER, head=head, check=True).lost_entries == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"recipients": ()}, "nobody is named"),
        ({"passphrase": "both"}, "nobody is named|recipients or under"),
        ({"recipients": ("age1nonsense",)}, "not a recipient"),
        ({"recipients": (str(IDENTITY),)}, "not a recipient"),
    ],
)
def test_bad_requests_are_refused(made: Made, more: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        back_up(made.appliance.client, made.folder, **more)
    assert "SECRET" not in str(caught.value)


def test_a_target_must_be_a_folder_elsewhere(made: Made, tmp_path: Path) -> None:
    inside = made.appliance.home.root / "logs"
    with pytest.raises(CloisterError, match="inside the appliance's home"):
        back_up(made.appliance.client, inside)
    (tmp_path / "file").touch()
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    with pytest.raises(CloisterError, match="is a folder"):
        made.appliance.client.back_up(
            BackupRequest(where="x", recipients=(RECIPIENT,)), {"objects": descriptor}
        )
    os.close(descriptor)


def test_a_discarded_backup_holds_up_no_shred(made: Made, tmp_path: Path) -> None:
    client = made.appliance.client
    import_rows(client, "brief", rows())
    plan = client.shred_plan("datasets", "brief")
    assert (plan.backups, plan.final_after) == ([], None)
    backup_id = back_up(client, tmp_path)["backup_id"]
    plan = client.shred_plan("datasets", "brief")
    assert [backup.backup_id for backup in plan.backups] == [backup_id]
    assert plan.final_after == plan.backups[0].keys_until
    client.discard_backup(backup_id)
    assert client.shred_plan("datasets", "brief").backups == []
    with pytest.raises(NotFound):
        client.discard_backup("bk-000000000000")


def test_settings_and_identity_come_along(made: Made, place: Path) -> None:
    restore(made.folder, place, OPENER)
    theirs = json.loads((place / "appliance.json").read_text())
    assert theirs == json.loads(made.appliance.home.identity_file.read_text())
    for path in place.rglob("*"):
        assert not path.stat().st_mode & 0o077, path
