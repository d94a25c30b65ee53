"""Restoring a home from a backup, with no authority running: checked whole beside its place, then moved there.

Knows the layout of a home and of a backup. It opens the key archive and no key in it: the vault's own
passphrase is asked for later, by `unlock`.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cloister.errors import Conflict, InvalidInput, NotFound, Tampered
from cloister.home import Home
from cloister.vault import KeyStore, ObjectStore, age
from cloister.vault import backup as archives
from cloister.vault.body_store import CAPSULES_NAME
from cloister.vault.files import make_folders, naming, sync_folder, write_whole
from cloister.vault.manifest import check_path
from cloister.verifier import VerificationError, parse_tree_head, parse_vkey, verify_log, verify_note

CONTROL = "control"
RESTORED = "restored.json"
"""Left beside the state: the authority enters it at its first start, and removes it."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Opener:
    """What opens the key archive: identities of age, or a passphrase."""

    identities: tuple[Any, ...] = ()
    passphrase: str | None = None


@dataclass(frozen=True)
class Restored:
    """What was restored, or would be. `lost_entries` are those that a newer tree head knows of."""

    backup_id: str
    made_at: str
    objects: int
    keys: int
    ledgers: dict[str, int]
    lost_entries: int
    home: str | None


def restore(
    target: Path,
    into: Path,
    opener: Opener,
    *,
    backup_id: str | None = None,
    keys: Path | None = None,
    head: bytes | None = None,
    accept_lost: bool = False,
    check: bool = False,
    by: str = "",
    progress: Progress = lambda stage, done, total: None,
) -> Restored:
    """Restore a backup (the newest unless named) into a home that is empty or not there.

    Args:
        target: the folder that the backup was made into.
        keys: where the key archives lie, if not in its `keys`.
        head: a signed tree head that a witness or an export kept; the ledger must continue it.
        accept_lost: go on where that head is newer than the backup; the ledger will say so.
        check: do everything but the last step, and leave nothing behind.
        by: the account that asked, for the ledger.

    Raises:
        Tampered: naming the archive, or the file in it, that is not what was written.
        Unauthenticated: the key archive does not open.
        Conflict: the home is not empty, or the head knows entries that the backup has not.
        InvalidInput, NotFound, OutOfSpace.
    """
    into = into.absolute()
    mounted = _is_mounted(into)
    if not check:
        Home(into).require_short()
        _require_empty(into, mounted)
    into.parent.mkdir(parents=True, exist_ok=True)
    above = into if mounted else into.parent  # on the disk that it is to lie on
    draft = above / f".{into.name}.{secrets.token_hex(4)}.restoring"
    draft.mkdir(mode=0o700)
    try:
        found = _rebuild(target, Home(draft), opener, backup_id, keys, head, accept_lost, by, progress)
        if not check:
            _sync(draft)
            _require_empty(into, mounted, draft.name)
            with naming(into):
                if mounted:
                    _move_into(draft, into)
                else:
                    with suppress(FileNotFoundError):
                        into.rmdir()
                    draft.rename(into)
                sync_folder(above)
    finally:
        _remove(draft)
    return Restored(**{**asdict(found), "home": None if check else str(into)})


def backups_in(target: Path) -> list[archives.Index]:
    """The backups in a folder, oldest first. Raises Tampered for an index that is damaged, NotFound for none."""
    indexes = [archives.read_index(target, name) for name in archives.indexes_in(target)]
    if not indexes:
        raise NotFound("there is no backup in this folder", where=str(target))
    return sorted(indexes, key=lambda index: index.made_at)


def _rebuild(
    target: Path,
    home: Home,
    opener: Opener,
    backup_id: str | None,
    keys: Path | None,
    head: bytes | None,
    accept_lost: bool,
    by: str,
    progress: Progress,
) -> Restored:
    index = _index(target, backup_id)
    facts = _open_keys(index, keys or target / archives.KEYS, home, opener)
    catalogue = _open_objects(target, facts, home)
    key_count = _check_keys(home, catalogue)
    _check_state(home, catalogue)
    lost = _check_ledgers(home, facts, head, accept_lost, target)
    store = ObjectStore(home.objects)
    for number, ref in enumerate(catalogue.packs):
        progress("objects", number, len(catalogue.packs))
        draft = home.work / f"restore-{number}"
        store.adopt(draft, archives.unpack_object(target, ref, draft))
    progress("objects", len(catalogue.packs), len(catalogue.packs))
    _leave_word(home, index, facts, target, lost, by, len(catalogue.packs))
    return Restored(
        backup_id=facts.backup_id,
        made_at=facts.made_at,
        objects=len(catalogue.packs),
        keys=key_count,
        ledgers={name: ledger.entries for name, ledger in sorted(facts.ledgers.items())},
        lost_entries=lost,
        home=None,
    )


def _require_empty(into: Path, mounted: bool, draft: str = "") -> None:
    ours = {draft, "lost+found"} if mounted else set()
    with naming(into):
        if into.is_symlink() or (
            into.exists() and (not into.is_dir() or any(path.name not in ours for path in into.iterdir()))
        ):
            raise Conflict(
                "a home is restored into an empty folder, or one that is not there",
                where=str(into),
                remedy="Name another one, or move what is there away.",
            )


def _is_mounted(path: Path) -> bool:
    """Whether a file system is mounted just there, so that nothing can be put in its place.

    Of /proc/self/mountinfo (proc(5)): a bind mount looks like the folder that it shows.
    """
    wanted = os.fsencode(path.parent.resolve() / path.name)
    with Path("/proc/self/mountinfo").open("rb") as mounts:
        for line in mounts:
            point = line.split()[4]
            for code, plain in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
                point = point.replace(code, plain)
            if point == wanted:
                return True
    return False


def _move_into(draft: Path, into: Path) -> None:
    """What a draft holds, into the folder that it lies in. The keys go last: without them it is no home yet."""
    into.chmod(0o700)
    for path in sorted(draft.iterdir(), key=lambda path: path.name == "keys"):
        path.rename(into / path.name)
    draft.rmdir()


def _index(target: Path, backup_id: str | None) -> archives.Index:
    if backup_id is None:
        return backups_in(target)[-1]
    if f"{backup_id}.json" not in archives.indexes_in(target):
        raise NotFound("there is no backup of that id in this folder", where=backup_id[:64])
    return archives.read_index(target, f"{backup_id}.json")


def _open_keys(index: archives.Index, folder: Path, home: Home, opener: Opener) -> archives.KeyFacts:
    """The key store in its place, and what its archive says of the rest."""
    name = f"{index.backup_id}.age"
    where = str(folder / name)
    sealed = archives.read_bytes(folder, name, index.keys_sha256, limit=1 << 30)
    plain = age.decrypt(sealed, identities=opener.identities, passphrase=opener.passphrase, where=where)
    files = archives.untar(plain, where)
    if set(files) - {CAPSULES_NAME} != {"backup.json", "keystore.db"}:
        raise Tampered("not a key archive", where=where)
    facts = archives.parse_facts(files["backup.json"], where)
    if (facts.backup_id, facts.objects_sha256) != (index.backup_id, index.objects_sha256):
        raise Tampered("the key archive belongs to another objects archive", where=where)
    for place in (home.keys, home.work, home.state.parent):
        place.mkdir(mode=0o700)
    write_whole(home.keys / "keystore.db", files["keystore.db"])
    if CAPSULES_NAME in files:
        make_folders(home.bodies)
        write_whole(home.bodies / CAPSULES_NAME, files[CAPSULES_NAME])
    return facts


def _open_objects(target: Path, facts: archives.KeyFacts, home: Home) -> archives.Catalogue:
    """State, settings, identity and ledgers in their places; which packs belong to them."""
    name = f"{facts.backup_id}.tar"
    folder = target / archives.OBJECTS

    def place(member: str) -> Path:
        return home.root / check_path(member)

    archives.extract(folder, name, facts.objects_sha256, place)
    listed = home.root / "catalogue.json"
    catalogue = archives.parse_catalogue(listed.read_bytes(), f"{folder / name}: catalogue.json")
    listed.unlink()
    if catalogue.backup_id != facts.backup_id or not home.state.exists():
        raise Tampered("not the objects archive of this backup", where=str(folder / name))
    return catalogue


def _check_keys(home: Home, catalogue: archives.Catalogue) -> int:
    """How many keys there are. Tampered where an object's is missing."""
    with closing(KeyStore(home.keys / "keystore.db")) as store:
        store.integrity()
        for ref in catalogue.packs:
            if ref.kind != "base" and store.data_key(ref.object_id, ref.version) is None:
                raise Tampered("the key archive lacks the key of an object", where=ref.object_id)
        return len(store.data_keys())


def _check_state(home: Home, catalogue: archives.Catalogue) -> None:
    """Raises Tampered unless the state tells of just these objects."""
    try:
        with closing(sqlite3.connect(f"file:{home.state}?mode=ro", uri=True)) as database:
            sound = database.execute("PRAGMA integrity_check(1)").fetchall() == [("ok",)]
            sql = "SELECT kind, object_id, version, manifest_sha256 FROM objects"
            rows = set(database.execute(sql).fetchall())
    except sqlite3.DatabaseError:
        sound, rows = False, set()
    listed = {(ref.kind, ref.object_id, ref.version, ref.manifest_sha256) for ref in catalogue.packs}
    if not sound or rows != listed:
        raise Tampered(
            "the state in this backup is damaged, or does not fit its objects", where="state/state.db"
        )


def _check_ledgers(
    home: Home, facts: archives.KeyFacts, head: bytes | None, accept_lost: bool, target: Path
) -> int:
    """Every ledger verifies and continues what is known of it. How many entries the head knows beyond it."""
    lost = 0
    used = head is None
    for name, known in sorted(facts.ledgers.items()):
        folder = home.control_ledger.parent / name
        where = f"{target / archives.OBJECTS / facts.backup_id}.tar: ledger/{name}"
        since = [known.head.encode()] if known.head else []
        if head is not None and _is_head_of(head, known.vkey):
            used = True
            beyond = _beyond(head, known)
            if beyond and not accept_lost:
                raise Conflict(
                    f"the backup's ledger {name} ends before that tree head: {beyond} entries were made after it",
                    where=where,
                    remedy="Find a newer backup, or restore with --accept-lost-entries; the ledger will say so.",
                    values={"lost_entries": beyond},
                )
            lost = max(lost, beyond)
            since += [] if beyond else [head]
        heads: list[bytes | None] = [*since] or [None]
        for note in heads:
            try:
                problems = verify_log(folder, known.vkey, since=note).problems
            except VerificationError as error:
                problems = [str(error)]
            if problems:
                raise Tampered(f"the ledger does not verify: {problems[0]}", where=where)
    if not used:
        raise InvalidInput("this tree head is of no ledger in this backup", where="--head")
    return lost


def _is_head_of(head: bytes, vkey: str) -> bool:
    return head.split(b"\n", 1)[0] == parse_vkey(vkey).name.encode()


def _beyond(head: bytes, known: archives.LedgerFacts) -> int:
    """How many entries a tree head has that the ledger has not signed. Raises InvalidInput for a false one."""
    try:
        size = parse_tree_head(verify_note(head, parse_vkey(known.vkey))).size
        signed = parse_tree_head(known.head.rpartition("\n\n")[0] + "\n").size if known.head else 0
    except VerificationError as error:
        raise InvalidInput(f"not a tree head of this ledger: {error}", where="--head") from None
    return max(0, size - signed)


def _leave_word(
    home: Home,
    index: archives.Index,
    facts: archives.KeyFacts,
    target: Path,
    lost: int,
    by: str,
    packs: int,
) -> None:
    """What the authority is to enter when it first runs over this home."""
    row = {
        "backup_id": facts.backup_id,
        "made_at": facts.made_at,
        "made_by": facts.made_by,
        "where": str(target)[:1024],
        "keys_until": facts.keys_until,
        "packs": packs,
        "copied": 0,
        "copied_bytes": 0,
        "objects_sha256": facts.objects_sha256,
        "keys_sha256": index.keys_sha256,
        "ledger_entries": facts.ledgers[CONTROL].entries if CONTROL in facts.ledgers else 0,
    }
    word = {
        "objects": [facts.backup_id],
        "made_at": facts.made_at,
        "by": by,
        "entries": row["ledger_entries"],
        "lost_entries": lost,
        "row": row,
    }
    write_whole(home.state.parent / RESTORED, json.dumps(word).encode())


def _sync(root: Path) -> None:
    for at, _, names in os.walk(root, topdown=False):
        for name in names:
            descriptor = os.open(Path(at, name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(Path(at))


def _remove(draft: Path) -> None:
    """Take a draft away, its files of keys overwritten first."""
    for keys in (draft / "keys" / "keystore.db", draft / "bodies" / CAPSULES_NAME):
        with suppress(OSError):
            size = keys.stat().st_size
            with keys.open("r+b") as file:
                file.write(bytes(size))
                file.flush()
                os.fsync(file.fileno())
    shutil.rmtree(draft, ignore_errors=True)


def opener_of(identity: str | None, passphrase: str | None) -> Opener:
    """An opener of the text of an identity file, or of a passphrase. Raises InvalidInput."""
    if identity is not None:
        return Opener(identities=tuple(age.parse_identities(identity)))
    if passphrase is None:
        raise InvalidInput("the key archive needs an identity of age, or its passphrase")
    return Opener(passphrase=passphrase)
