"""Commands on backups: make one, list them, note that one is gone; and restore, with no authority running."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from cloister.cli.output import JsonFlag, moment, print_json, print_table, say, size, visible
from cloister.cli.session import connect, read_passphrase, watch

if TYPE_CHECKING:
    from cloister.restoring import Opener


class _MakeUnlessNamed(TyperGroup):
    """`backup DIR` is `backup make DIR`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and self.get_command(ctx, args[0]) is None:
            args = ["make", *args]
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0].startswith("-") and args[0] not in ("-h", "--help"):
            args = ["make", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_MakeUnlessNamed, no_args_is_help=True)

KeysFolder = Annotated[
    Path | None, typer.Option("--keys", help="A folder of their own for key archives, on another medium.")
]
PassphraseFd = Annotated[
    int | None,
    typer.Option(
        "--passphrase-fd", metavar="N", help="Read the key archive's passphrase from this descriptor."
    ),
]


@app.command()
def make(
    folder: Annotated[Path, typer.Argument(help="Where to; a folder that is there.", show_default=False)],
    recipient: Annotated[
        list[str] | None,
        typer.Option("--recipient", "-r", help="age recipient (age1…) of the key archive; may be repeated."),
    ] = None,
    passphrase: Annotated[
        bool, typer.Option("--passphrase", "-p", help="Ask for a passphrase for the key archive.")
    ] = False,
    passphrase_fd: PassphraseFd = None,
    keys: KeysFolder = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Read back only what was copied now, not what was there before.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Back up state, objects, keys and ledgers; `cloister backup FOLDER` does the same. Work goes on meanwhile."""
    from cloister.api import BackupRequest
    from cloister.cli.validation import validated

    secret = None
    if passphrase or passphrase_fd is not None:
        secret = read_passphrase(passphrase_fd, new=True)
    request = validated(
        BackupRequest,
        where=str(folder.absolute())[:1024],
        recipients=tuple(recipient or ()),
        passphrase=secret,
        quick=quick,
    )
    descriptors = {"objects": _open_folder(folder)}
    if keys is not None:
        descriptors["keys"] = _open_folder(keys)
    try:
        with connect() as client:
            job = watch(client, client.back_up(request, descriptors).job_id, quiet=json)
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)
    made = job.result
    if json:
        print_json(made)
        return
    say(
        f"{made['backup_id']}: {made['packs']} objects, {made['copied']} of them copied now "
        f"({size(made['copied_bytes'])}); everything was read back."
    )
    where = keys if keys is not None else folder / "keys"
    say(
        f"The key archive is {where}/{made['backup_id']}.age. Keep it apart from the objects, and destroy it by "
        f"{made['keys_until'][:10]}: until then it opens what is shredded meanwhile."
    )


def _open_folder(folder: Path) -> int:
    from cloister.errors import InvalidInput

    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidInput(f"cannot be opened as a folder: {error.strerror}", where=str(folder)) from None


@app.command("list")
def list_(json: JsonFlag = False) -> None:
    """List the backups that this appliance made."""
    with connect() as client:
        found = client.backups()
    if json:
        print_json(found)
        return
    print_table(
        ("id", "made", "by", "objects", "entries", "keys until", "where"),
        [
            (
                b.backup_id,
                moment(b.made_at),
                b.made_by,
                b.packs if b.keys_sha256 else "UNFINISHED",
                b.ledger_entries,
                "destroyed" if b.discarded_at else f"{b.keys_until:%Y-%m-%d}",
                b.where,
            )
            for b in found
        ],
        empty="No backup yet. Make one with `cloister backup FOLDER --recipient age1…`.",
    )


@app.command()
def discard(
    backup: Annotated[str, typer.Argument(metavar="BACKUP", help="The backup's id.")], json: JsonFlag = False
) -> None:
    """Note that a backup's key archive was destroyed, so that shreds no longer reckon with it.

    The file itself is yours to destroy, with every copy of it.
    """
    with connect() as client:
        gone = client.discard_backup(backup)
    print_json(gone) if json else say(f"{gone.backup_id} is noted as destroyed.")


def add_commands(root: typer.Typer) -> None:
    """Hang `restore` into the root."""
    root.command()(restore)


def restore(
    folder: Annotated[
        Path, typer.Argument(help="The folder that the backup was made into.", show_default=False)
    ],
    into: Annotated[
        Path | None, typer.Option("--into", help="The home to make: empty, or not there.")
    ] = None,
    backup: Annotated[
        str | None, typer.Option("--backup", help="The backup's id; the newest unless given.")
    ] = None,
    keys: KeysFolder = None,
    identity: Annotated[
        Path | None, typer.Option("--identity", "-i", help="The age identity that opens the key archive.")
    ] = None,
    identity_fd: Annotated[
        int | None,
        typer.Option("--identity-fd", metavar="N", help="Read that identity from this descriptor."),
    ] = None,
    passphrase_fd: PassphraseFd = None,
    head: Annotated[
        Path | None,
        typer.Option("--head", help="A tree head that was kept elsewhere: the ledger must continue it."),
    ] = None,
    accept_lost_entries: Annotated[
        bool, typer.Option("--accept-lost-entries", help="Restore although --head is newer than the backup.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Rehearse: do everything but the last step, leave nothing behind.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Restore a backup into an empty home, checked whole before anything appears there. Nothing must run over it."""
    from cloister.errors import InvalidInput
    from cloister.restoring import restore as restore_home

    if into is None:
        if not check:
            raise InvalidInput("say where the home is to be", remedy="Use `--into HOME`.")
        into = Path(os.environ.get("TMPDIR") or "/tmp") / "cloister-rehearsal"  # noqa: S108 - a private folder is made
    opener = _opener(identity, identity_fd, passphrase_fd)
    shown = _Shown(quiet=json)
    restored = restore_home(
        folder,
        into,
        opener,
        backup_id=backup,
        keys=keys,
        head=_read(head) if head is not None else None,
        accept_lost=accept_lost_entries,
        check=check,
        by=_own_account(),
        progress=shown,
    )
    if json:
        print_json({"ok": True, **vars(restored)})
        return
    ledgers = ", ".join(f"{name} {entries} entries" for name, entries in restored.ledgers.items())
    what = "would be restored" if check else f"is restored into {restored.home}"
    say(
        f"{restored.backup_id} of {restored.made_at[:16]} {what}: {restored.objects} objects, {restored.keys} keys,"
    )
    say(f"ledgers that verify: {visible(ledgers)}.")
    if head is None:
        say(
            "No tree head was given: that the ledger is the newest one, only a head kept elsewhere can show (--head)."
        )
    if not check:
        say(f"Next: `CLOISTER_HOME={restored.home} cloister up`, then `cloister unlock`.")
        say("The home that was backed up must not run again: two would write one ledger.")


def _own_account() -> str:
    """Who this is by the kernel's account, for the ledger: what a shell says of it may be anything."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid:{os.getuid()}"


def _opener(identity: Path | None, identity_fd: int | None, passphrase_fd: int | None) -> Opener:
    from cloister.errors import InvalidInput
    from cloister.restoring import opener_of

    if sum(value is not None for value in (identity, identity_fd, passphrase_fd)) > 1:
        raise InvalidInput("--identity, --identity-fd and --passphrase-fd exclude each other")
    if identity is not None:
        return opener_of(_read(identity).decode(errors="replace"), None)
    if identity_fd is not None:
        with os.fdopen(os.dup(identity_fd), "rb") as file:
            return opener_of(file.read(1 << 16).decode(errors="replace"), None)
    return opener_of(None, read_passphrase(passphrase_fd))


def _read(path: Path) -> bytes:
    from cloister.errors import InvalidInput

    try:
        with path.open("rb") as file:
            return file.read(1 << 20)
    except OSError as error:
        raise InvalidInput(f"cannot be read: {error.strerror}", where=str(path)) from None


class _Shown:
    """Progress on one line of a terminal."""

    def __init__(self, *, quiet: bool) -> None:
        self._on = not quiet and sys.stderr.isatty()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self._on:
            end = "\r\x1b[2K" if done == total else ""
            print(f"\r\x1b[2K{stage} {done}/{total}{end}", end="", file=sys.stderr, flush=True)
