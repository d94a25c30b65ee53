"""Keys in memory: found while the vault is open, nowhere after it was locked; none in a child or a core."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from cloister.vault import ArgonParams, Vault
from cloister.vault.memory import SecretBytes, wipe_bytes

PASSPHRASE = b"correct horse battery staple"

OPEN_AND_LOCK = """
import gc, sys
from pathlib import Path
from cloister.vault import Vault
vault = Vault.open(Path(sys.argv[1]))
vault.unlock(sys.stdin.buffer.readline().strip())
print(sum(k.locked for k in (vault._root, *vault._keks.values())), flush=True)
sys.stdin.buffer.readline()
vault.new_data_key("ds-000000000002")
vault.rotate_kek()
vault.secret("pepper")
vault.lock()
gc.collect()
print("locked", flush=True)
sys.stdin.buffer.readline()
"""


def found(pid: int, needle: bytes) -> int:
    """How often `needle` lies in what that process may read."""
    count = 0
    with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in maps:
            span, permissions, *_ = line.split()
            start, end = (int(part, 16) for part in span.split("-"))
            if "r" not in permissions or end > 1 << 63:
                continue
            try:
                memory.seek(start)
                count += memory.read(end - start).count(needle)
            except OSError:
                continue
    return count


def test_after_locking_no_copy_of_root_key_and_kek_is_in_memory(tmp_path: Path, argon: ArgonParams) -> None:
    vault = Vault.create(tmp_path / "keys", PASSPHRASE, argon=argon)
    assert vault._root is not None
    root, kek = vault._root.reveal(), vault._keks[1].reveal()
    with subprocess.Popen(
        [sys.executable, "-c", OPEN_AND_LOCK, tmp_path / "keys"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(PASSPHRASE + b"\n")
        process.stdin.flush()
        locked_pages = int(process.stdout.readline())
        assert locked_pages == 2 or resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] < 1 << 16
        try:
            assert found(process.pid, root) == 1
            assert found(process.pid, kek) == 1
        except PermissionError:
            pytest.skip("the memory of a child cannot be read here")
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"locked\n"
        assert (found(process.pid, root), found(process.pid, kek)) == (0, 0)
        process.stdin.close()


def test_a_forked_child_finds_a_key_empty() -> None:
    secret = SecretBytes(b"a root key of thirty-two bytes!!")
    child = os.fork()
    if child == 0:
        os._exit(0 if secret.reveal() == bytes(32) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert secret.reveal() == b"a root key of thirty-two bytes!!"


def test_wiping_overwrites_byte_strings_and_spares_shared_ones() -> None:
    value = bytes(bytearray(b"0123456789abcdef"))
    wipe_bytes(value)
    assert value == bytes(16)
    for shared in (b"", b"x"):
        wipe_bytes(shared)
    assert (bytes(0), bytes([120])) == (b"", b"x")
