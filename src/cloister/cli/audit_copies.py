"""Commands on copies and proofs of the ledger: verify, prove, export, carry, take in. Verifying needs no appliance."""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cloister.cli.output import JsonFlag, moment, print_json, print_table, say, visible
from cloister.cli.session import connect

if TYPE_CHECKING:
    from cloister.api import HeadsLeft
    from cloister.copies import Carried
    from cloister.home import Home
    from cloister.verifier import Report, VerifierKey

MAX_FILE = 1 << 20


def add_commands(app: typer.Typer) -> None:
    """Hang the commands of this module into `cloister audit`."""
    for command in (verify, prove, export, carry, status, verifier):
        app.command()(command)
    app.command("take-in")(take_in)


def verify(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE|DIR]",
            help="A .tlog-proof, a ledger, or a folder of ledgers; this home's unless given.",
        ),
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(
            "--key", metavar="VKEY", help="The verifier key that you were given, or a file with it."
        ),
    ] = None,
    since: Annotated[
        list[Path] | None,
        typer.Option("--since", metavar="HEAD", help="A file with an older signed tree head (`checkpoint`)."),
    ] = None,
    witness: Annotated[
        list[str] | None,
        typer.Option("--witness", metavar="VKEY", help="A witness that must have cosigned."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Check a proof, or ledgers: every entry and tile, the signed tree head, the anchors. Offline.

    Exit code 7 says that something is wrong, and every problem names its file. Without --key the key in the
    ledger's own folder is used, which shows damage but not a ledger that was replaced as a whole.
    """
    from cloister.errors import InvalidInput, NotFound
    from cloister.home import Home
    from cloister.verifier import VerificationError, parse_witness_vkey, read_keys, verify_folder

    if path is None and _is_closed(Home.default()):
        with tempfile.TemporaryDirectory(prefix="cloister-verify-") as copy:
            _carry_out(Path(copy), None)
            verify(Path(copy), key, since, witness, json)
        return
    path = path or Home.default().control_ledger.parent
    if not path.exists():
        raise NotFound(
            "there is nothing here", where=str(path), remedy="Name a ledger, or run `cloister up`."
        )
    try:
        witnesses = read_keys(witness or (), parse_witness_vkey)
        keys = read_keys(key or ())
        if not path.is_dir():
            _verify_proof(path, keys or _stored_keys(Home.default(), path), witnesses, json=json)
            return
        older = [_read(file) for file in since or ()]
        reports = verify_folder(path, keys or _keys_beside(path), since=older, witnesses=witnesses)
    except VerificationError as error:
        raise InvalidInput(str(error), where=str(path)) from None
    good = all(report.ok for report in reports.values())
    if json:
        print_json({"ok": good, "ledgers": [_document(f, report) for f, report in reports.items()]})
    else:
        for folder, report in reports.items():
            _print_report(folder, report)
        if not key:
            say("The key came from the ledger's own folder: an auditor gives one kept elsewhere (--key).")
    if not good:
        raise typer.Exit(7)


def _document(folder: Path, report: Report) -> dict[str, Any]:
    cosignatures = [vars(one) for one in report.cosignatures]
    return {"folder": str(folder), **vars(report), "cosignatures": cosignatures, "ok": report.ok}


def _print_report(folder: Path, report: Report) -> None:
    word = "verified ✓" if report.ok else "NOT VERIFIED ✗"
    print(
        f"{visible(str(folder))}: {word}: {report.entries} entries, {report.signed} signed, "
        f"origin {visible(report.origin)}"
    )
    if report.anchors:
        print(f"  continues {report.anchors} tree heads that the control ledger anchors")
    for one in report.cosignatures:
        print(f"  cosigned by {visible(one.witness)} with {one.size} entries")
    for line in (*report.problems, *report.notes):
        print(f"  {visible(line)}")


def _verify_proof(path: Path, keys: list[VerifierKey], witnesses: list[VerifierKey], *, json: bool) -> None:
    from cloister.errors import InvalidInput
    from cloister.verifier import VerificationError, verify_proof

    if not keys:
        raise InvalidInput(
            "a proof is checked with the log's key", where="--key", remedy="Give it with --key."
        )
    try:
        report = verify_proof(_read(path), keys, witnesses=witnesses)
    except VerificationError as error:
        if json:
            print_json({"ok": False, "problems": [str(error)]})
        else:
            print(f"{visible(str(path))}: NOT VERIFIED ✗: {visible(str(error))}")
        raise typer.Exit(7) from None
    if json:
        cosignatures = [vars(one) for one in report.cosignatures]
        print_json({"ok": True, **vars(report), "cosignatures": cosignatures})
        return
    print(
        f"{visible(str(path))}: verified ✓: entry {report.index} of {report.size} in {visible(report.origin)}"
    )
    for one in report.cosignatures:
        print(f"  cosigned by {visible(one.witness)} with {one.size} entries")
    print(visible(report.entry))


def _read(path: Path) -> bytes:
    from cloister.errors import InvalidInput

    with path.open("rb") as file:
        data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise InvalidInput("this file is too long for a tree head or a proof", where=str(path))
    return data


def _keys_beside(folder: Path) -> list[VerifierKey]:
    """The keys that lie with the ledgers themselves."""
    from cloister.errors import NotFound, Tampered
    from cloister.verifier import VerificationError, find_logs, read_keys

    files = [log / "vkey" for log in find_logs(folder)]
    found = [file for file in files if file.exists()]
    if not found:
        raise NotFound(
            "there is no verifier key in this folder", where=str(folder), remedy="Give it with --key."
        )
    keys = []
    for file in found:
        try:
            keys += read_keys([str(file)])
        except VerificationError as error:
            raise Tampered(f"the verifier key is damaged: {error}", where=str(file)) from None
    return keys


def _is_closed(home: Home) -> bool:
    """Whether there is a ledger whose files this account may not read: the authority serves it."""
    return home.control_ledger.exists() and not os.access(home.control_ledger, os.R_OK | os.X_OK)


def _stored_keys(home: Home, proof: Path) -> list[VerifierKey]:
    """The keys of this home's ledgers, for a proof that was made here."""
    from cloister.copies import served_keys
    from cloister.verifier import read_keys

    say(
        f"{visible(str(proof))} is checked with this home's keys: an auditor gives one kept elsewhere (--key)."
    )
    if _is_closed(home):
        with connect() as client:
            return read_keys(served_keys(client))
    files = [folder / "vkey" for folder in (home.control_ledger, home.gateway_ledger)]
    return read_keys(str(file) for file in files if file.exists())


def prove(
    index: Annotated[
        int, typer.Argument(min=0, help="The entry's number, as `cloister audit show` prints it.")
    ],
    ledger: Annotated[
        str, typer.Option("--ledger", help="Which ledger: control or gateway.", metavar="NAME")
    ] = "control",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file for it; standard output unless given.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Write a proof that an entry is in the ledger: the entry, its path in the tree, the signed tree head.

    Whoever has the verifier key checks it with `cloister audit verify FILE`, or with the verifier alone.
    """
    from cloister.errors import Conflict, InvalidInput

    if ledger not in ("control", "gateway"):
        raise InvalidInput("there is no such ledger", where="--ledger", remedy="Say control or gateway.")
    with connect() as client:
        text = client.prove(ledger, index)
    if output is None:
        print_json({"proof": text}) if json else sys.stdout.write(text)
        return
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise Conflict("the file exists", where=str(output), remedy="Name another one.") from None
    print_json({"ok": True, "file": str(output)}) if json else say(f"Wrote {output}.")


def export(
    folder: Annotated[Path, typer.Argument(help="A new folder, for example on a USB stick.")],
    json: JsonFlag = False,
) -> None:
    """Copy this home's ledgers out, with their verifier keys. They may be in use."""
    from cloister.errors import Conflict

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Conflict(
            "the folder is not empty",
            where=str(folder),
            remedy="Name a new one, or use `cloister audit carry`.",
        )
    copied = _carry_out(folder, "export")
    if json:
        print_json({"ok": True, "folder": str(folder), "ledgers": list(copied)})
    elif copied:
        say(f"Copied {' and '.join(copied)} to {folder}. Check it with `cloister audit verify {folder}`.")


def carry(
    folder: Annotated[
        Path, typer.Argument(help="A folder on a USB stick or another host; the same one each time.")
    ],
    json: JsonFlag = False,
) -> None:
    """Take in what a witness cosigned there, then bring the copies there up to date.

    On the witness's machine `cloister witness FOLDER` (or `python verifier.py witness FOLDER`) checks what was
    carried and cosigns it; the next visit takes the cosignatures in.
    """
    taken = _take_in(folder) if folder.is_dir() else []
    copied = _carry_out(folder, "carry")
    if json:
        ledgers = {name: {"before": one.before, "signed": one.size} for name, one in copied.items()}
        print_json({"ok": True, "folder": str(folder), "cosignatures": taken, "ledgers": ledgers})
        return
    _say_taken(taken)
    for name, one in copied.items():
        say(f"{name}: {one.size} signed entries, {one.size - one.before} of them new.")
    if copied:
        say(f"Next: on the witness's machine, `cloister witness {folder}`; then carry it here again.")


def take_in(
    folder: Annotated[Path, typer.Argument(help="A folder that was carried to a witness.")],
    json: JsonFlag = False,
) -> None:
    """Take in the cosignatures that witnesses left in a folder, and copy nothing."""
    from cloister.errors import NotFound

    if not folder.is_dir():
        raise NotFound("there is no such folder", where=str(folder))
    taken = _take_in(folder)
    print_json({"ok": True, "cosignatures": taken}) if json else _say_taken(taken)


def status(json: JsonFlag = False) -> None:
    """Say which tree heads have left, what witnesses cosigned, and what is overdue."""
    with connect() as client:
        state = client.ledger()
    if json:
        print_json(state)
        return
    rows = [
        (
            one.ledger,
            "UNWITNESSED" if one.overdue_since else "witnessed ✓",
            f"{moment(one.overdue_since)}" if one.overdue_since else "-",
            f"{moment(one.left_at)} ({one.left_size})" if one.left_at else "never",
            f"{moment(one.cosigned_at)} ({one.cosigned_size}) {one.cosigned_by}"
            if one.cosigned_at
            else "never",
        )
        for one in state.witnesses
    ]
    print_table(
        ("ledger", "", "since", "head left (entries)", "cosigned"), rows, empty="Nothing is signed yet."
    )
    overdue = [one for one in state.witnesses if one.overdue_since]
    if overdue:
        say(f"Next: `{overdue[0].command}`.")


def verifier(json: JsonFlag = False) -> None:
    """Print the stand-alone verifier: one file of Python for an auditor (`> verifier.py`)."""
    from cloister import verifier as module

    source = Path(module.__file__).read_text(encoding="utf-8")
    print_json({"source": source}) if json else sys.stdout.write(source)


def _carry_out(folder: Path, how: Literal["export", "carry"] | None) -> dict[str, Carried]:
    """Copy the ledgers, and say so to the authority where the copy leaves."""
    from cloister.copies import carry_over
    from cloister.errors import OutOfSpace

    with connect() as client:
        if how is not None:
            client.flush_ledger()
        try:
            copied = carry_over(client, folder)
            if how is not None and "gateway" in copied and copied["gateway"].before == 0:
                # Begun since: the control ledger has to state its key before a copy can be checked.
                client.flush_ledger()
                copied = _since(copied, carry_over(client, folder))
        except OSError as error:
            if error.errno == 28:
                raise OutOfSpace(
                    "there is no room for the copy", where=str(folder), remedy="Make room and repeat it."
                ) from None
            raise
        if copied and how is not None:
            client.heads_left(_heads_left(copied, how))
    if not copied:
        say("Nothing in this home's ledgers is signed yet. Next: `cloister init`.")
    return copied


def _since(first: dict[str, Carried], second: dict[str, Carried]) -> dict[str, Carried]:
    """Two copies told as one."""
    return {n: replace(one, before=first[n].before) if n in first else one for n, one in second.items()}


def _heads_left(copied: dict[str, Carried], how: Literal["export", "carry"]) -> HeadsLeft:
    from cloister.api import HeadsLeft

    return HeadsLeft.model_validate({"sizes": {name: one.size for name, one in copied.items()}, "how": how})


def _take_in(folder: Path) -> list[dict[str, Any]]:
    """Hand every cosigned head in a folder to the authority. One of a stranger is told, and left alone."""
    from cloister.api import CosignedHead
    from cloister.copies import cosigned_in
    from cloister.errors import Conflict, InvalidInput

    taken: list[dict[str, Any]] = []
    heads = cosigned_in(folder)
    if not heads:
        return taken
    with connect() as client:
        for head in heads:
            try:
                found = client.take_in(
                    CosignedHead.model_validate({"ledger": head.ledger, "note": head.note})
                )
            except (Conflict, InvalidInput) as error:
                say(
                    f"! {visible(str(head.path))}: {visible(error.message)}. {visible(error.remedy or '')}".rstrip()
                )
                continue
            taken += [{"ledger": head.ledger, **one} for one in found]
    return taken


def _say_taken(taken: list[dict[str, Any]]) -> None:
    for one in taken:
        say(
            f"Took in: {visible(str(one['witness']))} cosigned {one['size']} entries of the {one['ledger']} ledger."
        )
