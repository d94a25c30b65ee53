"""Entries for tests, and a process that appends until it is killed."""

from __future__ import annotations

import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloister.ledger import Entry, Ledger, Settings

ORIGIN = "cloister.test/control"


def sample(number: int, *, pad: int = 0) -> Entry:
    return Entry(
        time="2026-11-21T11:00:00.000000Z",
        actor="uid:1000",
        identified_by="peercred",
        action="run.start",
        objects=("rn-000000000000",),
        digests={"config": "ab" * 32},
        details={"number": number, "pad": "x" * pad},
    )


def write_until_killed(root: Path, threads: int) -> None:
    """Appends from several threads; prints each index once it is acknowledged."""
    import threading

    signer = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    settings = Settings(journal_bytes=1 << 15, sign_after_s=0.01)
    ledger = Ledger.open(root, origin=ORIGIN, signer=signer, settings=settings)

    def work(thread: int) -> None:
        number = 0
        while True:
            index = ledger.append(sample(number, pad=thread * 40))
            sys.stdout.write(f"{index} {number} {thread * 40}\n")
            number += 1

    for thread in range(threads):
        threading.Thread(target=work, args=(thread,), daemon=True).start()
    threading.Event().wait()


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    write_until_killed(Path(sys.argv[1]), int(sys.argv[2]))
