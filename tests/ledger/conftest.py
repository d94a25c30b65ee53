"""What the ledger's tests share: a fixed signing key, entries, and ledgers that are closed afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloister.ledger import Ledger

ORIGIN = "cloister.test/control"


@pytest.fixture
def signer() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture
def open_ledger(tmp_path: Path, signer: Ed25519PrivateKey) -> Iterator[Callable[..., Ledger]]:
    """Opens a ledger in `tmp_path/log` (or `root=`), signed unless told otherwise."""
    opened: list[Ledger] = []

    def open_(root: Path | None = None, **options: Any) -> Ledger:
        options = {"origin": ORIGIN, "signer": signer, **options}
        opened.append(Ledger.open(root or tmp_path / "log", **options))
        return opened[-1]

    yield open_
    for ledger in opened:
        ledger.close()
