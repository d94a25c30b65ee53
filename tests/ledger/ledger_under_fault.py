"""A process that appends for ever, says what became of each entry, and takes its ledger up again when it fails."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ledger_samples import ORIGIN, sample

from cloister.errors import LedgerUnavailable
from cloister.ledger import Ledger, Settings

SETTINGS = Settings(journal_bytes=1 << 15, emergency_bytes=1 << 14, sign_after_s=0.005, retry_s=0.02)


def main(root: Path) -> None:
    signer = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    ledger = Ledger.open(root, origin=ORIGIN, signer=signer, settings=SETTINGS)
    number = 0
    while True:
        number += 1
        try:
            print("kept", ledger.append(sample(number, pad=200)), number, flush=True)
            continue
        except LedgerUnavailable as error:
            print("refused", number, error.message, flush=True)
        number += 1
        try:
            print("urgent", ledger.append(sample(number, pad=10), urgent=True), number, flush=True)
        except LedgerUnavailable:
            print("urgent-refused", number, flush=True)
        time.sleep(0.02)
        try:
            ledger.recover()
            print("recovered", flush=True)
        except LedgerUnavailable:
            continue


if __name__ == "__main__":
    main(Path(sys.argv[1]))
