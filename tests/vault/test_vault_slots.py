"""Unlock slots of every kind: what opens them, what does not, and what a hostile document cannot do."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cryptography_vectors
import pytest

from cloister.errors import (
    CloisterError,
    Conflict,
    Denied,
    InvalidInput,
    Locked,
    NotFound,
    Tampered,
    Unauthenticated,
    Unavailable,
)
from cloister.vault import ArgonParams, PassphraseSlot, UnlockSlot, Vault
from cloister.vault.credential import CredentialSlot, read_credential
from cloister.vault.shares import SharesSlot, parse_share
from cloister.vault.slots import StoredSlot, argon2id
from cloister.vault.token import TokenSlot, allowed_module

PASSPHRASE = b"correct horse battery staple"
OBJECT = "ds-000000000000"
SOFTHSM = next(
    (
        path
        for path in map(Path, ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so"))
        if path.exists()
    ),
    None,
)


@pytest.fixture
def vault(tmp_path: Path, argon: ArgonParams) -> Vault:
    made = Vault.create(tmp_path / "keys", PASSPHRASE, argon=argon)
    made.new_data_key(OBJECT)
    return made


def folder(vault: Vault) -> Path:
    return Path(vault._where).parent


def opens(vault: Vault, slot: UnlockSlot, number: int | None = None) -> int:
    """The number of the slot that opens another process's view of the vault."""
    again = Vault.open(folder(vault))
    try:
        opened = again.unlock_with(slot, number)
        assert again.data_key(OBJECT) == vault.data_key(OBJECT)
        return opened
    finally:
        again.close()


# --- Argon2id -------------------------------------------------------------------------------------


def argon_vectors() -> list[dict[str, str]]:
    text = (Path(cryptography_vectors.__file__).parent / "KDF" / "argon2id.txt").read_text()
    found: list[dict[str, str]] = []
    for line in text.splitlines():
        name, equals, value = (part.strip() for part in line.partition("="))
        if name == "COUNT":
            found.append({})
        elif equals and found and not line.startswith("#"):
            found[-1][name] = value
    return found


def test_argon2id_vectors_pass_through_our_derivation() -> None:
    vectors = argon_vectors()
    assert len(vectors) == 6
    passed = 0
    for vector in vectors:
        if "secret" in vector:  # Argon2's pepper, which slots do not use
            continue
        argon = ArgonParams(int(vector["memcost"]), int(vector["iter"]), int(vector["lanes"]))
        context = bytes.fromhex(vector.get("ad", ""))
        out = argon2id(
            bytes.fromhex(vector["pass"]),
            bytes.fromhex(vector["salt"]),
            argon,
            context,
            int(vector["length"]),
        )
        assert out.hex() == vector["output"], vector
        passed += 1
    assert passed == 5


# --- credentials ----------------------------------------------------------------------------------


def test_a_credential_opens_the_vault_and_another_does_not(vault: Vault) -> None:
    key = CredentialSlot.new_key()
    number = vault.add_slot(CredentialSlot(key, "unlock-key"))
    assert opens(vault, CredentialSlot(key)) == number
    with pytest.raises(Unauthenticated, match="credential"):
        opens(vault, CredentialSlot(CredentialSlot.new_key()))
    for wrong in (b"short", bytes(5000)):
        with pytest.raises(InvalidInput):
            CredentialSlot(wrong)
    with pytest.raises(InvalidInput):
        CredentialSlot(key, "../etc/passwd")
    assert not [
        p for p in folder(vault).iterdir() if key in p.read_bytes() or key.hex().encode() in p.read_bytes()
    ]


def test_a_credential_is_read_from_the_folder_of_the_service_alone(tmp_path: Path) -> None:
    given = tmp_path / "credentials"
    given.mkdir(mode=0o700)
    (given / "unlock").write_bytes(bytes(32))
    assert read_credential(given, "unlock") == bytes(32)
    assert read_credential(given, "other") is None
    (given / "link").symlink_to("/etc/passwd")
    for name in ("link", "../unlock", "a/b", ""):
        with pytest.raises(Tampered):
            read_credential(given, name)
    (given / "large").write_bytes(bytes(5000))
    with pytest.raises(InvalidInput):
        read_credential(given, "large")


def test_systemd_creds_gives_back_what_a_slot_was_made_with(vault: Vault, tmp_path: Path) -> None:
    tool = shutil.which("systemd-creds")
    if tool is None:
        pytest.skip("systemd-creds is not installed")
    key, stored = CredentialSlot.new_key(), tmp_path / "stored.cred"
    sealed = subprocess.run(
        [tool, "encrypt", "--with-key=host", "--name=cloister-unlock", "-", stored],
        input=key,
        capture_output=True,
    )
    if sealed.returncode != 0:
        pytest.skip(f"systemd-creds cannot encrypt here: {sealed.stderr.decode()[:200]}")
    assert key not in stored.read_bytes()
    vault.add_slot(CredentialSlot(key))
    given = tmp_path / "credentials"
    given.mkdir(mode=0o700)
    command = [tool, "decrypt", "--name=cloister-unlock", stored, given / "cloister-unlock"]
    subprocess.run(command, check=True, capture_output=True)
    back = read_credential(given, "cloister-unlock")
    assert back == key
    assert opens(vault, CredentialSlot(back)) == 2


# --- SLIP-39 shares -------------------------------------------------------------------------------


def test_any_threshold_of_the_shares_opens_and_fewer_do_not(vault: Vault) -> None:
    slot = SharesSlot.split(2, 3)
    number = vault.add_slot(slot)
    assert len(slot.mnemonics) == 3
    for pair in itertools.permutations(slot.mnemonics, 2):
        assert opens(vault, SharesSlot.joined(pair)) == number
    assert opens(vault, SharesSlot.joined(slot.mnemonics)) == number
    assert opens(vault, SharesSlot.joined([s.upper() for s in slot.mnemonics[:2]])) == number
    for one in slot.mnemonics:
        with pytest.raises(Unauthenticated, match="1 of 2 shares") as caught:
            opens(vault, SharesSlot.joined([one]))
        assert caught.value.values == {"given": 1, "needed": 2}
    for path in folder(vault).iterdir():
        assert not any(share.encode()[:40] in path.read_bytes() for share in slot.mnemonics)


def test_shares_of_another_set_are_refused(vault: Vault) -> None:
    mine, other = SharesSlot.split(2, 3), SharesSlot.split(2, 3)
    vault.add_slot(mine)
    with pytest.raises(Unauthenticated, match="another set"):
        opens(vault, SharesSlot.joined([mine.mnemonics[0], other.mnemonics[1]]))
    with pytest.raises(Unauthenticated, match="another set"):
        opens(vault, SharesSlot.joined(other.mnemonics))
    with pytest.raises(Conflict, match="twice"):
        SharesSlot.joined([mine.mnemonics[0], mine.mnemonics[0]])


def test_a_mistyped_share_is_named_and_not_echoed() -> None:
    words = SharesSlot.split(2, 2).mnemonics[0].split()
    swapped = [*words[:10], words[11], words[10], *words[12:]]
    cases = {
        "its checksum fails": " ".join(swapped),
        "word 5 is not in the list": " ".join([*words[:4], "bananaphone", *words[5:]]),
        "33 words, this one 32": " ".join(words[:-1]),
        "33 words, this one 0": "x" * 5000,
    }
    for message, text in cases.items():
        with pytest.raises(InvalidInput, match=message) as caught:
            parse_share(text, 3)
        said = str(caught.value)
        assert said.startswith("share 3") and "bananaphone" not in said
        assert not any(f" {word} " in said for word in words)


def test_a_share_cannot_ask_for_hours_of_stretching() -> None:
    from shamir_mnemonic import generate_mnemonics

    costly = generate_mnemonics(1, [(2, 3)], bytes(32), iteration_exponent=1)[0]
    with pytest.raises(InvalidInput, match="none that Cloister made"):
        parse_share(costly[0])
    for threshold, count in ((1, 3), (4, 3), (2, 17), (0, 0)):
        with pytest.raises(InvalidInput):
            SharesSlot.split(threshold, count)


# --- PKCS#11 tokens -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Token:
    """A token of SoftHSM2's with an AES key and an RSA key pair."""

    module: Path
    label: str
    pin: str
    config: Path

    def slot(self, *, key_id: str | None = None, pin: str | None = None) -> TokenSlot:
        named = {"module": self.module, "token": self.label, "key_id": key_id} if key_id else {}
        return TokenSlot(pin or self.pin, allowed=[self.module], **named)  # type: ignore[arg-type]


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Token]:
    tools = [shutil.which(name) for name in ("softhsm2-util", "pkcs11-tool")]
    if SOFTHSM is None or None in tools:
        pytest.skip("SoftHSM2 or OpenSC is not installed")
    (tmp_path / "tokens").mkdir()
    config = tmp_path / "softhsm2.conf"
    config.write_text(
        f"directories.tokendir = {tmp_path}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    monkeypatch.setenv("SOFTHSM2_CONF", str(config))
    made = Token(SOFTHSM, "vault-test", "135790", config)
    util = [
        "softhsm2-util",
        "--init-token",
        "--free",
        "--label",
        made.label,
        "--so-pin",
        "97531",
        "--pin",
        made.pin,
    ]
    subprocess.run(util, check=True, capture_output=True)
    tool = ["pkcs11-tool", "--module", SOFTHSM, "--token-label", made.label, "--login", "--pin", made.pin]
    for kind, key_id in (("AES:32", "01"), ("rsa:2048", "02"), ("EC:secp256r1", "03")):
        how = "--keygen" if kind.startswith("AES") else "--keypairgen"
        command = [*tool, how, "--key-type", kind, "--id", key_id, "--usage-decrypt"]
        if kind.startswith("EC"):
            command.remove("--usage-decrypt")
        subprocess.run(command, check=True, capture_output=True)
    yield made


@pytest.mark.parametrize("key_id", ["01", "02"], ids=["AES", "RSA"])
def test_a_token_opens_the_vault(vault: Vault, token: Token, key_id: str) -> None:
    number = vault.add_slot(token.slot(key_id=key_id))
    assert opens(vault, token.slot()) == number
    with pytest.raises(Unauthenticated, match="PIN is wrong"):
        opens(vault, token.slot(pin="000000"))
    assert opens(vault, token.slot()) == number


def test_a_token_that_is_away_or_another_one_says_so(vault: Vault, token: Token, tmp_path: Path) -> None:
    vault.add_slot(token.slot(key_id="01"))
    away = tmp_path / "away"
    (tmp_path / "tokens").rename(away)
    (tmp_path / "tokens").mkdir()
    with pytest.raises(Unavailable, match="token is not there"):
        opens(vault, token.slot())
    util = [
        "softhsm2-util",
        "--init-token",
        "--free",
        "--label",
        token.label,
        "--so-pin",
        "97531",
        "--pin",
        token.pin,
    ]
    subprocess.run(util, check=True, capture_output=True)
    with pytest.raises(NotFound, match="no longer on it"):
        opens(vault, token.slot())
    tool = [
        "pkcs11-tool",
        "--module",
        str(token.module),
        "--token-label",
        token.label,
        "--login",
        "--pin",
        token.pin,
    ]
    subprocess.run([*tool, "--keygen", "--key-type", "AES:32", "--id", "01"], check=True, capture_output=True)
    with pytest.raises(Unauthenticated, match="not the one of this slot"):
        opens(vault, token.slot())


def test_keys_that_cannot_wrap_are_refused(vault: Vault, token: Token) -> None:
    with pytest.raises(NotFound, match="no key 09"):
        vault.add_slot(token.slot(key_id="09"))
    with pytest.raises(InvalidInput, match="neither AES nor RSA"):
        vault.add_slot(token.slot(key_id="03"))
    with pytest.raises(InvalidInput):
        token.slot(key_id="not hex")
    assert vault.slots() == [(1, "passphrase")]


def test_only_an_allowed_driver_is_loaded(vault: Vault, token: Token, tmp_path: Path) -> None:
    """A hostile slot document names a library that would leave a mark when loaded."""
    number = vault.add_slot(token.slot(key_id="01"))
    mark, source, library = tmp_path / "loaded", tmp_path / "evil.c", tmp_path / "evil.so"
    source.write_text(
        "#include <stdio.h>\n__attribute__((constructor)) static void f(void)"
        f'{{ FILE *x = fopen("{mark}", "w"); if (x) fclose(x); }}\n'
    )
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    stored = next(slot for slot in vault.stored_slots() if slot.slot_id == number)
    document = json.loads(stored.document) | {"module": str(library)}
    packed = json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
    forged = StoredSlot.of(number, "token", packed, vault.vault_id)
    with sqlite3.connect(vault._where) as connection:
        connection.execute(
            "UPDATE slots SET document = ?, digest = ? WHERE slot_id = ?",
            (forged.document, forged.digest, number),
        )
    connection.close()
    with pytest.raises(Denied, match="not allowed"):
        opens(vault, token.slot())
    assert not mark.exists()
    with pytest.raises(Denied):
        allowed_module(Path("relative.so"), [library])
    with pytest.raises(NotFound):
        allowed_module(tmp_path / "nowhere.so", [tmp_path / "nowhere.so"])
    library.chmod(0o666)
    with pytest.raises(Denied, match="other accounts may change"):
        allowed_module(library, [library])


def test_a_driver_that_falls_or_hangs_takes_nothing_with_it(
    vault: Vault, token: Token, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    for name, body, message, patience in (
        ("falls", "__builtin_trap();", "driver fell", 60.0),
        ("hangs", "for (;;) pause();", "did not answer", 2.0),
    ):
        source, library = tmp_path / f"{name}.c", tmp_path / f"{name}.so"
        source.write_text(
            f"#include <unistd.h>\n__attribute__((constructor)) static void f(void) {{ {body} }}\n"
        )
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
        monkeypatch.setattr("cloister.vault.token.TIMEOUT_S", patience)
        slot = TokenSlot("1", allowed=[library], module=library, token="x", key_id="01")
        with pytest.raises(Unavailable, match=message):
            vault.add_slot(slot)
    assert vault.data_key(OBJECT)


def test_a_request_that_comes_in_pieces_is_read_whole() -> None:
    """As a pipe hands on what is longer than a page: a long path and a long PIN are."""
    request = json.dumps(
        {"module": f"/{'m' * 4000}.so", "token": "x", "key_id": "01", "pin": "é" * 255}
    ).encode()
    command = [sys.executable, "-m", "cloister.vault.token_driver"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as driver:
        assert driver.stdin is not None and driver.stdout is not None
        for piece in (request[:4096], request[4096:]):
            driver.stdin.write(piece)
            driver.stdin.flush()
            while driver.poll() is None and fcntl.ioctl(driver.stdin, termios.FIONREAD, bytes(4)) != bytes(4):
                time.sleep(0.01)
        driver.stdin.close()
        assert json.load(driver.stdout)["code"] == "unavailable"
    assert driver.returncode == 0


def test_the_pin_is_in_no_argument_and_no_environment(vault: Vault, token: Token, tmp_path: Path) -> None:
    """A driver that copies what others can read of its process."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    seen, source, library = tmp_path / "seen", tmp_path / "spy.c", tmp_path / "spy.so"
    source.write_text(
        "#include <stdlib.h>\n__attribute__((constructor)) static void f(void)"
        f'{{ if (system("cat /proc/$PPID/cmdline /proc/$PPID/environ > {seen}")) _Exit(1); }}\n'
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    pin = "24681357"
    slot = TokenSlot(pin, allowed=[library], module=library, token="x", key_id="01")
    with pytest.raises(CloisterError):
        vault.add_slot(slot)
    assert b"token_driver" in seen.read_bytes()
    assert pin.encode() not in seen.read_bytes()


# --- together -------------------------------------------------------------------------------------


def test_slots_of_all_kinds_live_side_by_side(vault: Vault, token: Token, argon: ArgonParams) -> None:
    key, shares = CredentialSlot.new_key(), SharesSlot.split(3, 5)
    for slot in (PassphraseSlot(b"second", argon), CredentialSlot(key), shares, token.slot(key_id="02")):
        vault.add_slot(slot)
    openers: list[tuple[int, UnlockSlot]] = [
        (1, PassphraseSlot(PASSPHRASE)),
        (2, PassphraseSlot(b"second")),
        (3, CredentialSlot(key)),
        (4, SharesSlot.joined(shares.mnemonics[1:4])),
        (5, token.slot()),
    ]
    for number, slot in openers:
        assert opens(vault, slot) == number
        assert opens(vault, slot, number) == number
        assert vault.prove(slot) == number
        with pytest.raises(Unauthenticated):
            vault.prove(slot, but_not=number)
    with pytest.raises(Unauthenticated):
        opens(vault, PassphraseSlot(b"second"), 1)
    with pytest.raises(NotFound):
        opens(vault, PassphraseSlot(b"second"), 9)
    for number, slot in openers[:-1]:
        stored = next(s for s in vault.stored_slots() if s.slot_id == number)
        wrapped = json.loads(stored.document)["wrapped"].encode()
        vault.remove_slot(number)
        for path in folder(vault).iterdir():
            data = path.read_bytes()
            assert not any(wrapped[at : at + 16] in data for at in range(0, len(wrapped) - 16, 8))
        with pytest.raises(Unauthenticated):
            opens(vault, slot)
    with pytest.raises(Conflict, match="last"):
        vault.remove_slot(5)
    assert opens(vault, token.slot()) == 5


def test_a_slot_that_somebody_planted_proves_nothing(vault: Vault, argon: ArgonParams) -> None:
    """Who may write the key store but knows no secret puts a slot of their own into it."""
    planted = PassphraseSlot(b"planted", argon).seal(bytes(32), vault.vault_id)
    number = vault._store.add_slot("passphrase", planted)
    with pytest.raises(Tampered):
        vault.prove(PassphraseSlot(b"planted"))
    with pytest.raises(Tampered):
        vault.rotate_root(PassphraseSlot(b"planted"))
    with pytest.raises(Tampered):
        opens(vault, PassphraseSlot(b"planted"))
    assert vault.prove(PassphraseSlot(PASSPHRASE)) == 1
    assert [slot for slot, _ in vault.slots()] == [1, number]
    vault.lock()
    with pytest.raises(Locked):
        vault.prove(PassphraseSlot(PASSPHRASE))


def test_a_damaged_document_of_any_kind_is_tampered(vault: Vault, token: Token, argon: ArgonParams) -> None:
    """A document whose digest fits but whose content was made up."""
    key, shares = CredentialSlot.new_key(), SharesSlot.split(2, 3)
    openers: dict[int, UnlockSlot] = {1: PassphraseSlot(PASSPHRASE)}
    for slot, opener in (
        (CredentialSlot(key), CredentialSlot(key)),
        (shares, SharesSlot.joined(shares.mnemonics)),
        (token.slot(key_id="01"), token.slot()),
    ):
        openers[vault.add_slot(slot)] = opener
    for stored in vault.stored_slots():
        fields = json.loads(stored.document)
        documents = [b"", b"{}", b"[]", b"null", b"\xff", b"[" * 10_000, stored.document + b"x"]
        documents += [json.dumps({**fields, name: []}).encode() for name in fields]
        documents += [json.dumps({k: v for k, v in fields.items() if k != name}).encode() for name in fields]
        documents += [
            json.dumps({**fields, "salt": "zz"}).encode(),
            json.dumps({**fields, "more": 1}).encode(),
        ]
        for document in documents:
            with pytest.raises(Tampered):
                openers[stored.slot_id].open(document, vault.vault_id, "keystore.db", stored.slot_id)


def test_the_key_store_stays_private(vault: Vault) -> None:
    vault.add_slot(CredentialSlot(CredentialSlot.new_key()))
    for path in folder(vault).iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(folder(vault))
