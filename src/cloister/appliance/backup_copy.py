"""The copying of a backup: state, objects, keys, bodies and ledgers of a home that is in use, into archives.

The state is copied first, keys after it and ledgers last, so that whatever the state tells of has its key and
its entry. It runs in a thread, enters nothing and decides nothing.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tarfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec

from cloister.api import BackupRequest
from cloister.appliance.parts import Parts
from cloister.appliance.peer import Peer
from cloister.appliance.seal import appliance_id
from cloister.appliance.side import Delivery
from cloister.appliance.state import ObjectRow
from cloister.errors import Conflict, NotFound, Tampered
from cloister.ledger.export import LogFolder, carry
from cloister.vault import age
from cloister.vault import backup as archives
from cloister.vault.body_store import CAPSULES_NAME, SEALED_NAME, BodyStore
from cloister.verifier import VerificationError, verify_log

TRIES = 5
PROGRESS_S = 0.5


@dataclass
class Asked:
    """A backup that waits for its target, or is being made. Its passphrase is kept here alone."""

    peer: Peer
    request: BackupRequest
    recipients: list[Any]
    stopped: threading.Event


class Made(NamedTuple):
    packs: int
    copied: int
    copied_bytes: int
    objects: archives.Archived
    keys: archives.Archived
    entries: int


class Throttled:
    """Passes progress on twice a second, and every stage's end."""

    def __init__(self, told: Callable[[str, int, int], None]) -> None:
        self._told, self._at = told, 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        if done >= total or time.monotonic() - self._at > PROGRESS_S:
            self._at = time.monotonic()
            self._told(stage, done, total)


class Copy:
    """The copying itself, in a thread."""

    def __init__(self, parts: Parts) -> None:
        self._home, self._state, self._seal = parts.home, parts.state, parts.seal
        self._catalogue, self._ledger = parts.catalogue, parts.recorder.ledger

    def make(
        self,
        backup_id: str,
        delivery: Delivery,
        asked: Asked,
        progress: Throttled,
        remember: Callable[[datetime], None],
        until: timedelta,
    ) -> Made:
        target = Path(f"/proc/self/fd/{delivery.descriptors['objects']}")
        keys = target / archives.KEYS
        if "keys" in delivery.descriptors:
            keys = Path(f"/proc/self/fd/{delivery.descriptors['keys']}")
        archives.sweep(target)
        scratch = self._home.output_folder(delivery.job_id).parent
        written: list[Path] = []
        try:
            state = self._state.snapshot()
            if self._home.export_cursors.is_dir():  # before the ledgers: none points beyond its ledger
                shutil.copytree(self._home.export_cursors, scratch / "export")
            packs, copied, copied_bytes = self._packs(target, state, asked, progress)
            made_at = self._state.now()
            key_files = {"keystore.db": self._seal.any_vault.store.snapshot(), **self._bodies(scratch)}
            ledgers = self._ledgers(scratch / "ledger")
            objects = self._objects(target, backup_id, state, packs, scratch)
            written.append(target / archives.OBJECTS / objects.name)
            facts = archives.KeyFacts(
                backup_id=backup_id,
                made_at=made_at.isoformat(),
                keys_until=(made_at + until).isoformat(),
                made_by=asked.peer.account,
                appliance=appliance_id(self._home.identity_file),
                objects_sha256=objects.sha256,
                ledgers=ledgers,
            )
            remember(made_at)
            plain = archives.tar_of({"backup.json": msgspec.json.encode(facts), **key_files})
            sealed = age.encrypt(plain, recipients=asked.recipients, passphrase=asked.request.passphrase)
            sealed_keys = archives.write_archive(keys, f"{backup_id}.age", lambda out: _put(out, sealed))
            written.append(keys / sealed_keys.name)
            self._read_back(target, keys, packs, objects, sealed_keys, progress, asked.request.quick, copied)
            index = archives.Index(
                backup_id=backup_id,
                made_at=facts.made_at,
                keys_until=facts.keys_until,
                appliance=facts.appliance,
                objects_sha256=objects.sha256,
                keys_sha256=sealed_keys.sha256,
                packs=len(packs),
            )
            archives.write_archive(
                target, f"{backup_id}.json", lambda out: _put(out, archives.index_bytes(index))
            )
        except BaseException:
            for path in reversed(written):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
            raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return Made(len(packs), len(copied), copied_bytes, objects, sealed_keys, ledgers["control"].entries)

    def _packs(
        self, target: Path, state: bytes, asked: Asked, progress: Throttled
    ) -> tuple[list[archives.PackRef], set[str], int]:
        """A pack for each object of the copied state; those that the target has are not copied again."""
        with contextlib.closing(sqlite3.connect(":memory:")) as database:
            database.deserialize(state)
            sql = "SELECT kind, object_id, version, manifest_sha256 FROM objects ORDER BY object_id, version"
            rows = database.execute(sql).fetchall()
        there = archives.packs_in(target)
        packs, copied, size = [], set[str](), 0
        for number, (kind, object_id, version, manifest_sha256) in enumerate(rows):
            progress("copy", number, len(rows))
            name = there.get(manifest_sha256)
            if name is None:
                folder = self._catalogue.store.folder(kind, object_id, version)
                pack = self._packed(target, folder, (object_id, version), manifest_sha256)
                name, size = pack.name, size + pack.size
                copied.add(name)
            packs.append(archives.PackRef(kind, object_id, version, manifest_sha256, name))
        progress("copy", len(rows), len(rows))
        return packs, copied, size

    def _packed(
        self, target: Path, folder: Path, version: tuple[str, int], manifest_sha256: str
    ) -> archives.Archived:
        try:
            return archives.pack_object(target, folder, manifest_sha256)
        except (NotFound, Tampered):
            with self._state.read() as session:
                gone = session.get(ObjectRow, version) is None
            if gone:  # it was encrypted anew meanwhile, as its next version
                raise Conflict(
                    "an object was replaced while it was copied",
                    where=version[0],
                    remedy="Make the backup again: what was copied is used by it.",
                ) from None
            raise

    def _bodies(self, scratch: Path) -> dict[str, bytes]:
        """Kept prompts and answers: their wrapped keys, which go to the keys; the sealed ones into `scratch`."""
        folder = self._home.bodies
        if not (folder / CAPSULES_NAME).exists():
            return {}
        (scratch / "bodies").mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.closing(BodyStore(folder)) as store:
            capsules = store.capsules_snapshot()  # first: each of them then has its body
            store.copy_sealed(scratch / "bodies" / SEALED_NAME)
        return {CAPSULES_NAME: capsules}

    def _ledgers(self, scratch: Path) -> dict[str, archives.LedgerFacts]:
        """Copies of every ledger of the home that verify, and what they are known by."""
        facts = {}
        for ledger in sorted(self._home.control_ledger.parent.iterdir()):
            if (ledger / "vkey").exists():
                facts[ledger.name] = self._copied(ledger, scratch / ledger.name)
        return facts

    def _copied(self, ledger: Path, copy: Path) -> archives.LedgerFacts:
        """One ledger, again where it was written meanwhile."""
        vkey = (ledger / "vkey").read_text().strip()
        for attempt in range(TRIES):
            shutil.rmtree(copy, ignore_errors=True)
            try:
                if ledger == self._home.control_ledger:
                    self._ledger.export(copy)
                else:
                    carry(LogFolder(ledger), copy)
                report = verify_log(copy, vkey)
            except (Tampered, FileNotFoundError, VerificationError):
                report = None
            if report is not None and not report.problems:
                head = copy / "checkpoint"
                return archives.LedgerFacts(
                    vkey, head.read_text("utf-8") if head.exists() else "", report.entries
                )
            time.sleep(0.1 * attempt)
        raise Conflict(
            "this ledger does not verify", where=str(ledger), remedy="See `cloister audit verify`."
        )

    def _objects(
        self, target: Path, backup_id: str, state: bytes, packs: list[archives.PackRef], scratch: Path
    ) -> archives.Archived:
        cursors = scratch / "export"

        def fill(out: IO[bytes]) -> None:
            with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
                catalogue = archives.Catalogue(backup_id, tuple(packs))
                archives.add_bytes(tar, "catalogue.json", msgspec.json.encode(catalogue))
                archives.add_bytes(tar, "state/state.db", state)
                for path in (self._home.identity_file, self._home.settings_file, self._home.left_file):
                    if path.exists():
                        name = path.relative_to(self._home.root).as_posix()
                        archives.add_bytes(tar, name, path.read_bytes())
                for folder in ("ledger", "bodies"):
                    archives.add_tree(tar, scratch / folder, folder)
                archives.add_tree(tar, cursors, "state/export")

        return archives.write_archive(target / archives.OBJECTS, f"{backup_id}.tar", fill)

    @staticmethod
    def _read_back(
        target: Path,
        keys: Path,
        packs: list[archives.PackRef],
        objects: archives.Archived,
        sealed_keys: archives.Archived,
        progress: Throttled,
        quick: bool,
        copied: set[str],
    ) -> None:
        archives.read_back(target / archives.OBJECTS, objects.name, objects.sha256)
        archives.read_back(keys, sealed_keys.name, sealed_keys.sha256)
        chosen = [pack.pack for pack in packs if not quick or pack.pack in copied]
        for number, name in enumerate(chosen):
            progress("read back", number, len(chosen))
            archives.read_back(target / archives.PACKS, name, archives.pack_digest(name))
        progress("read back", len(chosen), len(chosen))


def _put(out: IO[bytes], data: bytes) -> None:
    out.write(data)
