"""Slots, rotation and checks through the authority's socket: who may, what is entered, what comes back."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import (
    LOOPBACK,
    PASSPHRASE,
    Appliance,
    import_base,
    import_rows,
    short_run,
    start_appliance,
)

from cloister import embedded
from cloister.api import CheckLine, LockRequest, NewSlot, SlotSecret
from cloister.client import Client
from cloister.demo.search import find_bytes, find_leaks
from cloister.errors import Conflict, Denied, InvalidInput, Locked, NotFound, Unauthenticated
from cloister.vault import ObjectStore

PROOF = SlotSecret(kind="passphrase", passphrase=PASSPHRASE)
ROWS: list[dict[str, object]] = [
    {"messages": [{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": f"{n}"}]}
    for n in range(40)
]


@pytest.fixture(scope="module", autouse=True)
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What systemd would give every authority that starts here."""
    folder = tmp_path_factory.mktemp("credentials")
    before = os.environ.get("CREDENTIALS_DIRECTORY")
    os.environ["CREDENTIALS_DIRECTORY"] = str(folder)
    yield folder
    if before is None:
        del os.environ["CREDENTIALS_DIRECTORY"]
    else:
        os.environ["CREDENTIALS_DIRECTORY"] = before


def entered(client: Client, action: str) -> list[str]:
    """`<decision or kind>` of every entry of that action, oldest first."""
    entries = client.entries(0, 1000)
    return [
        entry.decision or str(entry.details.get("kind", "")) for entry in entries if entry.action == action
    ]


def relocked(appliance: Appliance) -> None:
    appliance.client.lock(LockRequest())


def reopen(appliance: Appliance) -> None:
    if appliance.client.status().locked:
        appliance.client.unlock(PASSPHRASE)


def test_a_slot_is_added_by_who_opens_another_one(appliance: Appliance) -> None:
    client = appliance.client
    new = NewSlot(kind="passphrase", passphrase="the second one", memory_mib=8, iterations=1, proof=PROOF)
    wrong = SlotSecret(kind="passphrase", passphrase="not it")
    with pytest.raises(Unauthenticated):
        client.add_slot(new.model_copy(update={"proof": wrong}))
    added = client.add_slot(new)
    assert (added.slot, added.kind, added.shares) == (2, "passphrase", [])
    assert entered(client, "vault.slot.add") == ["refused", "passphrase"]
    assert [(slot.slot, slot.kind, slot.state) for slot in client.slots()] == [
        (1, "passphrase", "good"),
        (2, "passphrase", "good"),
    ]
    assert "Argon2id, 8 MiB" in client.slots()[1].detail
    relocked(appliance)
    with pytest.raises(Locked):
        client.add_slot(new)
    assert len(client.slots()) == 2
    with pytest.raises(Unauthenticated):
        client.open_with(SlotSecret(kind="passphrase", passphrase="the second one", slot=1))
    assert client.open_with(SlotSecret(kind="passphrase", passphrase="the second one")).slot == 2


def test_a_slot_is_removed_by_who_opens_one_that_stays(appliance: Appliance) -> None:
    client = appliance.client
    second = SlotSecret(kind="passphrase", passphrase="the second one")
    with pytest.raises(Unauthenticated):  # opening the slot itself is no proof that another one works
        client.remove_slot(2, second)
    with pytest.raises(NotFound):
        client.remove_slot(9, PROOF)
    client.remove_slot(2, PROOF)
    assert entered(client, "vault.slot.remove") == ["refused", ""]
    with pytest.raises(Conflict, match="last"):
        client.remove_slot(1, PROOF)
    relocked(appliance)
    with pytest.raises(Unauthenticated):
        client.open_with(second)
    client.unlock(PASSPHRASE)


def test_a_change_that_cannot_be_entered_does_not_happen(appliance: Appliance) -> None:
    entries = appliance.client.ledger().entries
    before = appliance.client.slots()
    keystore = (appliance.home.keys / "keystore.db").read_bytes()
    with pytest.raises(InvalidInput):
        appliance.client.add_slot(NewSlot(kind="passphrase", proof=PROOF))
    with pytest.raises(InvalidInput):
        appliance.client.add_slot(NewSlot(kind="shares", threshold=3, count=2, proof=PROOF))
    assert appliance.client.slots() == before
    entered = [entry.action for entry in appliance.client.entries(entries)]
    assert [
        action for action in entered if not action.startswith(("alert.", "gateway."))
    ] == []  # these come when they come
    assert (appliance.home.keys / "keystore.db").read_bytes() == keystore


def test_two_people_open_the_vault_with_a_share_each(appliance: Appliance) -> None:
    client = appliance.client
    added = client.add_slot(NewSlot(kind="shares", threshold=2, count=3, proof=PROOF))
    assert len(added.shares) == 3
    relocked(appliance)

    def give(share: str) -> SlotSecret:
        return SlotSecret(kind="shares", shares=(share,))

    first = client.open_with(give(added.shares[0]))
    assert (first.open, first.given, first.needed) == (False, 1, 2)
    again = client.open_with(give(f" {added.shares[0].upper()} "))  # the same one does not count twice
    assert (again.open, again.given) == (False, 1)
    mistyped = added.shares[1].rsplit(" ", 1)[0] + " academic"
    with pytest.raises(InvalidInput, match="share 1"):
        client.open_with(give(mistyped))
    with Client(appliance.home.authority_socket) as other:
        done = other.open_with(give(added.shares[1]))
    assert (done.open, done.slot) == (True, added.slot)
    assert not client.status().locked
    assert entered(client, "vault.unlock")[-4:] == ["share", "share", "attempt", "opened"]
    for share in added.shares:
        assert not find_leaks(" ".join(share.split()[4:9]), [appliance.home.root])


def test_shares_wait_in_memory_only_and_those_of_another_set_are_refused(appliance: Appliance) -> None:
    client = appliance.client
    other = client.add_slot(NewSlot(kind="shares", threshold=2, count=2, proof=PROOF))
    third = client.add_slot(NewSlot(kind="shares", threshold=2, count=2, proof=PROOF))
    client.remove_slot(third.slot, PROOF)
    relocked(appliance)
    client.open_with(SlotSecret(kind="shares", shares=(other.shares[0],)))
    with pytest.raises(Unauthenticated, match="no slot has shares of this set"):
        client.open_with(SlotSecret(kind="shares", shares=(third.shares[0],)))
    appliance.restart_authority()  # what was given is forgotten
    relocked(appliance)
    assert client.open_with(SlotSecret(kind="shares", shares=(other.shares[1],))).given == 1
    assert client.open_with(SlotSecret(kind="shares", shares=tuple(other.shares))).open
    client.remove_slot(other.slot, PROOF)


def test_a_service_opens_itself_at_start_with_its_credential(appliance: Appliance, credentials: Path) -> None:
    client = appliance.client
    key = os.urandom(32)
    encoded = base64.b64encode(key).decode()
    added = client.add_slot(NewSlot(kind="credential", key=encoded, name="cloister-unlock", proof=PROOF))

    def restarted() -> bool:
        pid = embedded.listener_pid(appliance.home.authority_socket)
        assert pid is not None
        os.kill(pid, signal.SIGTERM)
        embedded.await_end(pid)
        embedded.start(appliance.home, gateway=False, listen=LOOPBACK)
        return client.status().locked

    assert restarted()  # systemd gave nothing
    (credentials / "cloister-unlock").write_bytes(os.urandom(32))
    assert restarted()  # another host's
    assert entered(client, "vault.unlock")[-2:] == ["attempt", "refused"]
    (credentials / "cloister-unlock").write_bytes(key)
    assert not restarted()
    last = [entry for entry in client.entries(0, 1000) if entry.action == "vault.unlock"][-1]
    assert (last.decision, last.actor, last.details) == (
        "opened",
        "cloisterd",
        {"kind": "credential", "slot": added.slot},
    )
    relocked(appliance)  # and what an operator locks stays locked
    assert client.status().locked
    (credentials / "cloister-unlock").unlink()
    assert client.open_with(SlotSecret(kind="credential", key=encoded)).slot == added.slot


def test_a_token_needs_a_driver_that_the_settings_allow(appliance: Appliance) -> None:
    module = Path("/usr/lib/softhsm/libsofthsm2.so")
    if not module.exists():
        pytest.skip("SoftHSM2 is not installed")
    new = NewSlot(kind="token", module=str(module), token="x", key_id="01", pin="1", proof=PROOF)
    with pytest.raises(Denied, match="not allowed"):
        appliance.client.add_slot(new)


def test_a_token_opens_an_appliance(tmp_path_factory: pytest.TempPathFactory) -> None:
    module = Path("/usr/lib/softhsm/libsofthsm2.so")
    if not module.exists() or shutil.which("pkcs11-tool") is None:
        pytest.skip("SoftHSM2 or OpenSC is not installed")
    root = tmp_path_factory.mktemp("token")
    (root / "tokens").mkdir()
    config = root / "softhsm2.conf"
    config.write_text(f"directories.tokendir = {root}/tokens\nobjectstore.backend = file\n")
    os.environ["SOFTHSM2_CONF"] = str(config)
    util = [
        "softhsm2-util",
        "--init-token",
        "--free",
        "--label",
        "hsm",
        "--so-pin",
        "97531",
        "--pin",
        "13579",
    ]
    subprocess.run(util, check=True, capture_output=True)
    tool = ["pkcs11-tool", "--module", module, "--token-label", "hsm", "--login", "--pin", "13579"]
    subprocess.run([*tool, "--keygen", "--key-type", "AES:32", "--id", "01"], check=True, capture_output=True)
    home = root / "home"
    home.mkdir()
    (home / "appliance.yaml").write_text(f"vault:\n  pkcs11_modules: [{module}]\n")
    appliance = start_appliance(home, gateway=False)
    try:
        new = NewSlot(kind="token", module=str(module), token="hsm", key_id="01", pin="13579", proof=PROOF)
        added = appliance.client.add_slot(new)
        relocked(appliance)
        with pytest.raises(Unauthenticated, match="PIN"):
            appliance.client.open_with(SlotSecret(kind="token", pin="00000"))
        assert appliance.client.open_with(SlotSecret(kind="token", pin="13579")).slot == added.slot
        proof = SlotSecret(kind="token", pin="13579")
        done = appliance.client.rotate_root(proof)
        assert (done.kept, done.ended, done.kek.version) == (added.slot, [1], 2)
        relocked(appliance)
        with pytest.raises(Unauthenticated):
            appliance.client.unlock(PASSPHRASE)
        assert appliance.client.open_with(proof).open
        assert not find_bytes([b"13579"], [appliance.home.root])
    finally:
        appliance.client.close()
        embedded.stop(appliance.home)
        del os.environ["SOFTHSM2_CONF"]


# --- rotation and checks ------------------------------------------------------------------------------


def checked(client: Client, *, quick: bool = False) -> tuple[CheckLine, list[tuple[str, str]]]:
    *lines, result = client.check_vault(quick=quick)
    assert result.event == "result"
    return result, [(line.where or "", line.problem or "") for line in lines if line.event == "problem"]


def test_the_kek_is_rotated_and_objects_are_untouched(appliance: Appliance) -> None:
    reopen(appliance)
    import_rows(appliance.client, "letters", ROWS)
    before = {p: p.read_bytes() for p in appliance.home.objects.rglob("*") if p.is_file()}
    done = appliance.client.rotate_kek()
    assert done.version == 2 and done.destroyed == [1] and not done.resumed and done.rewrapped > 3
    assert {p: p.read_bytes() for p in appliance.home.objects.rglob("*") if p.is_file()} == before
    assert entered(appliance.client, "vault.rotate.kek") == ["started", "done"]
    result, problems = checked(appliance.client)
    assert (result.objects, result.problems, problems) == (1, 0, [])
    appliance.restart_authority()
    assert checked(appliance.client)[1] == []


def test_an_object_is_sealed_anew_and_what_named_it_stays_true(appliance: Appliance) -> None:
    client = appliance.client
    old = client.dataset("letters")
    store = ObjectStore(appliance.home.objects)
    old_manifest = store.manifest("dataset", old.object_id, 1)
    old_files = {
        r.path: (store.folder("dataset", old.object_id, 1) / r.path).read_bytes() for r in old_manifest.files
    }
    job = client.finished_job(client.rotate_object("letters").job_id)
    new = client.dataset("letters")
    assert (new.object_id, new.version, new.counts, new.inputs) == (old.object_id, 2, old.counts, old.inputs)
    assert new.created_at == old.created_at and job.subject == old.object_id
    assert not store.folder("dataset", old.object_id, 1).exists()
    manifest = store.manifest("dataset", old.object_id, 2, sha256=new.manifest_sha256)
    assert (manifest.inputs[-1].version, manifest.inputs[-1].manifest_sha256) == (1, old.manifest_sha256)
    assert (manifest.counts, manifest.details, manifest.config_digest) == (
        old_manifest.counts,
        old_manifest.details,
        old_manifest.config_digest,
    )
    folder = store.folder("dataset", old.object_id, 2)
    for record in manifest.files:
        assert (folder / record.path).read_bytes() != old_files[record.path]
    entries = {entry.action: entry for entry in client.entries(0, 1000)}
    assert entries["vault.rotate.object"].digests == {"manifest": old.manifest_sha256}
    assert entries["dataset.register"].digests["sealed_from"] == old.manifest_sha256
    assert checked(client)[1] == []
    with pytest.raises(NotFound):
        client.rotate_object("nothing-of-that-name")


@pytest.mark.slow
def test_a_rotated_dataset_trains_and_evaluates(appliance: Appliance) -> None:
    reopen(appliance)
    client = appliance.client
    import_base(client)
    import_rows(client, "notes", ROWS)
    client.finished_job(client.rotate_object("notes").job_id)
    with pytest.raises(InvalidInput, match="no key to rotate"):
        client.rotate_object("small")
    run = client.start_run(short_run("after", dataset="notes"))
    with pytest.raises(Conflict, match="uses it"):
        client.rotate_object("notes")
    client.finished_job(run.train_job.job_id)
    evaluation = client.run("after").evaluate_job
    assert evaluation is not None
    client.finished_job(evaluation.job_id)
    adapter = client.run("after").adapter
    assert adapter is not None
    client.finished_job(client.rotate_object(adapter).job_id)
    assert checked(client)[1] == []


def test_every_damage_is_named_and_ends_with_its_exit_code(appliance: Appliance, tmp_path: Path) -> None:
    client = appliance.client
    stored = client.dataset("letters")
    folder = ObjectStore(appliance.home.objects).folder("dataset", stored.object_id, stored.version)
    rows = next(path for path in folder.iterdir() if path.name != "manifest.json")
    good = rows.read_bytes()
    command = [str(Path(os.sys.executable).parent / "cloister"), "vault", "check"]  # type: ignore[attr-defined]
    environment = {**os.environ, "CLOISTER_HOME": str(appliance.home.root)}

    def said(*options: str) -> tuple[int, str]:
        done = subprocess.run(
            [*command, *options], capture_output=True, text=True, env=environment, timeout=120
        )
        return done.returncode, done.stdout

    assert said()[0] == 0
    for at in (0, 30, len(good) // 2, len(good) - 1):
        rows.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        code, text = said()
        assert code == 7 and str(rows) in text, (at, text)
        assert said("--quick")[0] == (7 if at < 56 else 0)
    rows.unlink()
    assert said()[0] == 7
    rows.write_bytes(good)
    rows.chmod(0o600)
    (folder / "stray").write_bytes(b"x")
    assert "stray" in said()[1]
    (folder / "stray").unlink()
    copy = folder.parent / f"v{stored.version + 5}"
    shutil.copytree(folder, copy)
    assert "no record names" in said()[1]
    shutil.rmtree(copy)
    assert said()[0] == 0


def test_the_vault_is_not_checked_while_it_is_locked(appliance: Appliance) -> None:
    relocked(appliance)
    with pytest.raises(Locked):
        list(appliance.client.check_vault())
    reopen(appliance)
