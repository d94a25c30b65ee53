"""Coverage-guided fuzzing of what reads other people's ledgers: tiles, tree heads, proofs, journals.

    python fuzz_ledger_parsers.py TARGET CORPUS [libFuzzer options]

A target fails on an exception that is not ours, on a hang, on memory beyond the limit, and where the
verifier accepts what it must not. The corpus starts from real files and is kept in CORPUS.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import atheris
from fuzzing import drive

with atheris.instrument_imports(include=["cloister.verifier", "cloister.ledger"]):
    from cloister import verifier
    from cloister.ledger import Entry, Ledger
    from cloister.ledger.frames import read_frames
    from cloister.ledger.note import NoteError, VerifierKey, check_signature, parse_head
    from cloister.ledger.proof import prove
    from cloister.ledger.tiles import unpack

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloister.errors import CloisterError

ORIGIN = "cloister.test/fuzz"
SIGNER = Ed25519PrivateKey.from_private_bytes(b"\x61" * 32)
KEY = verifier.parse_vkey(str(VerifierKey.of(ORIGIN, SIGNER)))
NOW = 1_800_000_000.0
FILES = ["tile/0/000", "tile/entries/000", "tile/0/001.p/44", "tile/entries/001.p/44", "tile/1/000.p/1"]


class Samples:
    """A small log in memory-backed space, cosigned, with an unsigned tail, and a proof from it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "log"
        with Ledger.open(self.root, origin=ORIGIN, signer=SIGNER) as ledger:
            for number in range(300):
                ledger.append(Entry("2026-01-01T00:00:00Z", "a", "b", "c", details={"n": number}))
            ledger.flush()
            ledger.detach_signer()
            ledger.append(Entry("2026-01-01T00:00:00Z", "a", "b", "c"))
        with verifier.Witness(folder / "state", "witness.test/fuzz") as witness:
            witness.visit(self.root, [KEY], NOW)
            self.witness = witness.key
        (self.cosigned,) = (self.root / "cosigned").iterdir()
        self.proof = prove(self.root, 17).encode()
        self.journal = next((self.root / "journal").glob("0*"))
        data = self.journal.read_bytes()
        self.journal.write_bytes(data.rstrip(b"\x00"))
        (self.root / "journal" / "emergency").unlink()
        for left in (self.root / "tile").rglob("*.p/*"):
            if str(left.relative_to(self.root)) not in FILES:
                left.unlink()


def tile(samples: Samples, data: bytes) -> None:
    """Any bytes in place of a tile or bundle: found, unless they are the bytes that belong there."""
    path = samples.root / FILES[data[0] % len(FILES)] if data else samples.root / FILES[0]
    good, data = path.read_bytes(), data[1:]
    unpack(data)
    path.write_bytes(data)
    try:
        report = verifier.verify_log(samples.root, str(KEY), strict=True, now=NOW)
    finally:
        path.write_bytes(good)
    if report.ok != (data == good):
        raise AssertionError(f"{path.name}: ok={report.ok}")


def checkpoint(samples: Samples, data: bytes) -> None:
    """A signed tree head: nothing is accepted that the key did not sign, nor by one reader alone."""
    with contextlib.suppress(verifier.VerificationError):
        head = verifier.parse_tree_head(verifier.verify_note(data, KEY))
        if (head.size, head.origin) not in ((300, ORIGIN), (0, ORIGIN)):
            raise AssertionError("a forged tree head is accepted")
        check_signature(data.decode(), VerifierKey.parse(str(KEY)))
        parse_head(data.decode())
    with contextlib.suppress(verifier.VerificationError):
        for one in verifier.verify_cosignatures(data, [samples.witness], NOW):
            if one.size != 300:
                raise AssertionError("a forged cosignature is accepted")
    with contextlib.suppress(NoteError):
        parse_head(data.decode(errors="replace"))
    with contextlib.suppress(NoteError):
        check_signature(data.decode(errors="replace"), VerifierKey.parse(str(KEY)))
    with contextlib.suppress(verifier.VerificationError):
        verifier.parse_vkey(data.decode(errors="replace"))
    with contextlib.suppress(NoteError):
        VerifierKey.parse(data.decode(errors="replace"))


def proof(samples: Samples, data: bytes) -> None:
    """A tlog-proof: only the entry that is at its index is ever shown to be there."""
    with contextlib.suppress(verifier.VerificationError):
        report = verifier.verify_proof(data, [KEY], now=NOW)
        entry = Entry("2026-01-01T00:00:00Z", "a", "b", "c", details={"n": report.index}).canonical()
        if verifier.parse_json(report.entry.encode()) != verifier.parse_json(entry):
            raise AssertionError("a forged proof is accepted")
    with contextlib.suppress(verifier.VerificationError):
        verifier.parse_json(data)


def journal(samples: Samples, data: bytes) -> None:
    """A journal: it never makes an entry of the signed part pass for another."""
    good = samples.journal.read_bytes()
    samples.journal.write_bytes(data)
    try:
        report = verifier.verify_log(samples.root, str(KEY), now=NOW)
        with contextlib.suppress(CloisterError):
            list(read_frames(samples.journal, data, ORIGIN))
    finally:
        samples.journal.write_bytes(good)
    if report.signed != 300:
        raise AssertionError("the journal changed what is signed")


TARGETS: dict[str, Callable[[Samples, bytes], None]] = {
    "tile": tile,
    "checkpoint": checkpoint,
    "proof": proof,
    "journal": journal,
}


def seeds(name: str, samples: Samples) -> list[bytes]:
    """Real inputs of a target, small ones first."""
    if name == "tile":
        return [bytes([at]) + (samples.root / path).read_bytes() for at, path in enumerate(FILES)]
    if name == "checkpoint":
        return [(samples.root / "checkpoint").read_bytes(), samples.cosigned.read_bytes(), str(KEY).encode()]
    return [samples.proof] if name == "proof" else [samples.journal.read_bytes()]


if __name__ == "__main__":
    drive(Samples, TARGETS, seeds)
