"""Commands on the ledger: what an auditor asks of it, also on a copy and without an appliance."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloister.cli import audit_query
from cloister.cli.output import JsonFlag, print_json, print_table, say, visible
from cloister.cli.session import connect

if TYPE_CHECKING:
    from cloister.api import LedgerEntry

app = typer.Typer(no_args_is_help=True)
audit_query.add_commands(app)

TRIES = 5


@app.command()
def show(
    start: Annotated[
        int | None, typer.Option(min=0, help="First entry; the newest ones unless given.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 20,
    json: JsonFlag = False,
) -> None:
    """Show entries of the control ledger."""
    with connect() as client:
        first = max(0, client.ledger().entries - limit) if start is None else start
        entries = client.entries(first, limit)
    if json:
        print_json(entries)
        return
    print_table(
        ("#", "time", "actor", "action", "decision", "objects"),
        [
            (e.index, e.time[5:19].replace("T", " "), e.actor, e.action, _decided(e), " ".join(e.objects))
            for e in entries
        ],
        empty="No entry there.",
    )


def _decided(entry: LedgerEntry) -> str:
    return entry.decision or (entry.reason or "")[:24]


@app.command()
def key(json: JsonFlag = False) -> None:
    """Print the verifier key of the control ledger, for whoever audits it."""
    with connect() as client:
        vkey = client.ledger_key()
    print_json({"vkey": vkey}) if json else print(vkey)


@app.command()
def verify(
    folder: Annotated[
        Path | None, typer.Argument(help="A ledger or a copy of one; this home's ledgers unless given.")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", help="The verifier key that you were given; else the folder's own.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Check a ledger offline: every tile, every entry, the signed tree head."""
    from cloister.errors import InvalidInput, NotFound, Tampered
    from cloister.home import Home
    from cloister.verifier import VerificationError, verify_log

    home = Home.default()
    folders = [folder] if folder else [f for f in (home.control_ledger, home.gateway_ledger) if f.exists()]
    if not folders:
        raise NotFound("there is no ledger here yet", where=str(home.root), remedy="Run `cloister up`.")
    if key is not None and len(folders) != 1:
        raise InvalidInput(
            "a key belongs to one ledger", where="--key", remedy="Name the ledger's folder too."
        )
    reports = []
    for ledger in folders:
        try:
            vkey = key or (ledger / "vkey").read_text().strip()
        except UnicodeDecodeError:
            raise Tampered("the verifier key is not text", where=str(ledger / "vkey")) from None
        except OSError:
            raise NotFound(
                "there is no verifier key in this folder", where=str(ledger), remedy="Give it with --key."
            ) from None
        try:
            report = verify_log(ledger, vkey)
            for _ in range(TRIES if folder is None else 0):  # it may have been read while it was written
                report = verify_log(ledger, vkey) if report.problems else report
        except VerificationError as error:
            raise InvalidInput(str(error), where=str(ledger)) from None
        reports.append((ledger, report))
    good = all(not report.problems for _, report in reports)
    if json:
        print_json({"ok": good, "ledgers": [{"folder": str(f), **vars(r)} for f, r in reports]})
    else:
        for ledger, report in reports:
            word = "verified ✓" if not report.problems else "NOT VERIFIED ✗"
            print(
                f"{ledger}: {word}: {report.entries} entries, {report.signed} signed, origin {report.origin}"
            )
            for line in (*report.problems, *report.notes):
                print(f"  {visible(line)}")
        if key is None:
            say(
                "The key came from the ledger's own folder: an auditor checks with one kept elsewhere (--key)."
            )
    if not good:
        raise typer.Exit(7)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="A new folder, for example on a USB stick.")],
    json: JsonFlag = False,
) -> None:
    """Copy this home's ledgers out, with their verifier keys."""
    from cloister.errors import CloisterError, Conflict
    from cloister.home import Home

    if folder.exists() and any(folder.iterdir()):
        raise Conflict("the folder is not empty", where=str(folder), remedy="Name a new one.")
    with connect() as client:
        client.flush_ledger()
    home = Home.default()
    copied = []
    for ledger in (home.control_ledger, home.gateway_ledger):
        if ledger.exists():
            try:
                _copy(ledger, folder / ledger.name)
            except (OSError, shutil.Error) as error:
                raise CloisterError(
                    f"could not be copied ({type(error).__name__})", where=str(ledger)
                ) from None
            copied.append(ledger.name)
    if json:
        print_json({"ok": True, "folder": str(folder), "ledgers": copied})
    else:
        say(
            f"Copied {' and '.join(copied)} to {folder}. Check a copy with `cloister audit verify {folder}/control`."
        )


def _copy(ledger: Path, target: Path) -> None:
    """Copy a ledger, again where it was written meanwhile; what never verifies is copied as it is."""
    from cloister.verifier import VerificationError, verify_log

    for attempt in range(TRIES):
        shutil.rmtree(target, ignore_errors=True)
        try:
            shutil.copytree(ledger, target, ignore=shutil.ignore_patterns("lock", "*.part", "spare"))
        except shutil.Error:
            if attempt == TRIES - 1:
                raise
            continue
        if not (target / "vkey").exists():
            return
        try:
            if not verify_log(target, (target / "vkey").read_text().strip()).problems:
                return
        except (VerificationError, UnicodeDecodeError):
            return
