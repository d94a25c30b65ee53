"""An entry's inclusion proof, checked on the spot by the independent verifier, and told in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from cloister.console.paint import facts, outside, stack, state, titled

if TYPE_CHECKING:
    from cloister.api import LedgerEntry, LedgerName
    from cloister.client import Client
    from cloister.verifier import ProofReport

Proved = tuple["ProofReport | None", str]


def prove(client: Client, ledger: LedgerName, index: int) -> tuple[Proved, str]:
    """The verifier's report, or what it found wrong; and the key's line. Errors: those of the authority."""
    from cloister.verifier import VerificationError, parse_vkey, verify_proof

    vkey = client.log_state(ledger).vkey
    proof = client.prove(ledger, index)
    try:
        return (verify_proof(proof.encode(), [parse_vkey(vkey)]), ""), vkey
    except VerificationError as error:
        return (None, str(error)), vkey


def save(client: Client, ledger: LedgerName, index: int, path: Path) -> Path:
    """The proof in a new file, where it is. Errors: OSError, those of the authority."""
    proof = client.prove(ledger, index)
    with path.open("x", encoding="utf-8") as out:
        out.write(proof)
    return path.absolute()


def holds(entry: LedgerEntry, proved: Proved) -> bool:
    """Whether the proof is good, and of just what the screen shows."""
    return proved[0] is not None and _same(entry, proved[0])


def told(entry: LedgerEntry, proved: Proved, vkey: str) -> Text:
    """What the proof shows, or that it shows nothing."""
    report, problem = proved
    key = facts([("key", vkey)])
    if report is None:
        return stack(state("NOT VERIFIED", "bad"), outside(problem), key)
    if not _same(entry, report):
        return stack(
            state("NOT VERIFIED", "bad"),
            Text("The proof is good, but of another entry than the one on the screen."),
            outside(report.entry, 4000),
        )
    return stack(
        state("verified", "good"),
        facts(
            [
                ("entry", f"{report.index} of {report.size}"),
                ("log", report.origin),
                ("root", report.root),
                ("cosigned by", ", ".join(one.witness for one in report.cosignatures)),
            ]
        ),
        key,
        Text(
            "Checked here by the verifier, with the key that the authority states. An auditor keeps their own.",
            "dim",
        ),
        titled("The entry, as proved", outside(report.entry, 4000)),
    )


def _same(entry: LedgerEntry, report: ProofReport) -> bool:
    """Whether the proved entry says what the screen shows, field by field."""
    proved: dict[str, Any] = json.loads(report.entry)
    shown = entry.model_dump(mode="json")
    told = {key: value for key, value in proved.items() if key in shown}
    return entry.index == report.index and told == {key: shown[key] for key in told} and "action" in told


def shown(entry: LedgerEntry) -> Text:
    """An entry in two columns."""
    return stack(
        facts(
            [
                ("entry", entry.index),
                ("time", entry.time),
                ("who", f"{entry.actor} ({entry.identified_by})"),
                ("did", entry.action),
                ("to", ", ".join(entry.objects)),
                ("decision", entry.decision),
                ("reason", entry.reason),
                ("policy set", entry.policy),
            ]
        ),
        facts((name, value) for name, value in entry.details.items()),
        facts((f"digest {name}", value) for name, value in entry.digests.items()),
    )
