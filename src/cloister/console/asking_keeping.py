"""Forms about what keeps an appliance: another way to open the vault, one way less, a backup, one that is gone.

What is typed to open a slot goes to the authority and is not kept; recovery shares are shown once.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from cloister.console.asking import checked, ended, followed, given
from cloister.console.paint import facts, marked, outside, stack, titled
from cloister.console.screens.dialogs import Field
from cloister.shown import moment, size

if TYPE_CHECKING:
    from cloister.api import AddedSlot, Backup, BackupRequest, Job, NewSlot, SlotSecret
    from cloister.client import Client
    from cloister.console.app import ConsoleApp

PASSPHRASE, SHARES = "a passphrase", "recovery shares, for paper"


def ask_new_slot(console: ConsoleApp) -> None:
    """Another passphrase, or shares of which some open the vault together."""
    from cloister.api import NewSlot

    def go_on(values: dict[str, str]) -> None:
        if values["kind"] == PASSPHRASE and values["new"] != values["again"]:
            console.mistaken("the two new passphrases differ; nothing was made")
            return

        def make() -> NewSlot:
            if values["kind"] == SHARES:
                return checked(
                    NewSlot,
                    kind="shares",
                    proof=_proof(values["proof"]),
                    threshold=int(values["threshold"]),
                    count=int(values["count"]),
                )
            return checked(
                NewSlot, kind="passphrase", proof=_proof(values["proof"]), passphrase=values["new"]
            )

        request = given(console, make)
        if request is not None:
            console.say("Making it …", "info")
            console.request(
                lambda client: client.add_slot(request),
                lambda added: _added(console, added, request.threshold),
                doing="add a slot",
            )

    console.ask_form(
        "Another way to open the vault",
        [
            Field("kind", "It opens by", choices=(PASSPHRASE, SHARES)),
            Field("new", "New passphrase", secret=True, help="empty for shares"),
            Field("again", "Once more", secret=True),
            Field("threshold", "Shares that open", "2", help="together", number=int),
            Field("count", "Shares in all", "3", number=int),
            Field("proof", "Passphrase of now", secret=True, needed=True, help="proves that you may"),
        ],
        go_on,
        note=Text("Credentials and tokens: `cloister vault slot add`.\n", "dim"),
    )


def _added(console: ConsoleApp, added: AddedSlot, threshold: int) -> None:
    console.say(f"Slot {added.slot} opens the vault.")
    if added.shares:
        shares = [
            titled(f"Share {n} of {len(added.shares)}", outside(s, 1024))
            for n, s in enumerate(added.shares, 1)
        ]
        console.tell(
            f"Slot {added.slot}: any {threshold} of these open the vault; shown this once",
            stack(
                marked("warn", "Write each on paper, give each to another person, keep none in a file."),
                *shares,
            ),
            once=True,
        )


def ask_slot_removal(console: ConsoleApp) -> None:
    """One way less, by opening another that stays."""

    def go_on(values: dict[str, str]) -> None:
        number = int(values["slot"].split()[0])
        proof = given(console, lambda: _proof(values["proof"]))
        if proof is not None:
            console.confirm(
                "Remove a way to open the vault",
                outside(f"slot {values['slot']}"),
                f"slot {number}",
                "remove it",
                lambda: console.request(
                    lambda client: client.remove_slot(number, proof),
                    lambda _: console.say(f"Slot {number} is gone."),
                    doing=f"remove slot {number}",
                ),
            )

    slots = tuple(f"{one.slot} {one.kind} {one.detail}" for one in console.picture.slots)
    if len(slots) < 2:
        console.say("The last way to open the vault stays: n adds another.", "warn")
        return
    console.ask_form(
        "Remove a way to open the vault",
        [
            Field("slot", "Slot", choices=slots),
            Field("proof", "Passphrase", secret=True, needed=True, help="of a slot that stays"),
        ],
        go_on,
    )


def _proof(passphrase: str) -> SlotSecret:
    from cloister.api import SlotSecret

    return checked(SlotSecret, kind="passphrase", passphrase=passphrase)


def ask_backup(console: ConsoleApp) -> None:
    """State, objects, keys and ledgers into a folder that is there, which is opened with the operator's own rights."""
    from cloister.api import BackupRequest

    def go_on(values: dict[str, str]) -> None:
        if values["passphrase"] != values["again"]:
            console.mistaken("the two passphrases differ; nothing was made")
            return
        folder = Path(values["folder"]).expanduser().absolute()
        request = given(
            console,
            lambda: checked(
                BackupRequest,
                where=str(folder)[:1024],
                recipients=tuple(values["recipients"].split()),
                passphrase=values["passphrase"] or None,
            ),
        )
        if request is not None:
            console.say(f"Backing up to {folder} …", "info")
            console.request(
                lambda client: back_up(console, client, folder, request),
                lambda job: _backed_up(console, job),
                doing="backup",
            )

    console.ask_form(
        "Back up state, objects, keys and ledgers",
        [
            Field("folder", "Folder", help="that is there, such as a mounted disk", needed=True),
            Field("recipients", "age recipients", help="of the key archive; empty: those of the settings"),
            Field("passphrase", "Or a passphrase", secret=True, help="for the key archive; may stay empty"),
            Field("again", "Once more", secret=True),
        ],
        go_on,
    )


def back_up(console: ConsoleApp, client: Client, folder: Path, request: BackupRequest) -> Job:
    """Back up, and wait for it, telling how far it is. Errors: OSError, those of the authority."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        job = client.back_up(request, {"objects": descriptor})
        return followed(client, job, console.post_message)
    finally:
        os.close(descriptor)


def _backed_up(console: ConsoleApp, job: Job) -> None:
    made = job.result
    if ended(console, job, f"{made.get('backup_id')} is made; everything was read back."):
        copied = f"{made.get('copied')} now, {size(int(made.get('copied_bytes', 0)))}"
        console.tell(
            "The backup is made",
            stack(
                facts(
                    [
                        ("backup", made.get("backup_id")),
                        ("objects", made.get("packs")),
                        ("copied", copied),
                        ("its keys open until", str(made.get("keys_until", ""))[:10]),
                    ]
                ),
                marked("warn", "The key archive lies in its folder keys: keep it apart from the objects."),
            ),
        )


def ask_discard(console: ConsoleApp) -> None:
    """Note that a key archive was destroyed: a shred is final when the last has gone."""
    kept = [one for one in console.picture.backups if one.discarded_at is None]
    if not kept:
        console.say("There is no backup whose keys are kept.", "warn")
        return

    def go_on(values: dict[str, str]) -> None:
        one = next(one for one in kept if one.backup_id == values["backup"])
        console.confirm(
            "Note that a backup's key archive is destroyed",
            _kept(one),
            one.backup_id,
            "note that it is gone",
            lambda: console.request(
                lambda client: client.discard_backup(one.backup_id),
                lambda gone: console.say(f"{gone.backup_id}: its keys are noted as destroyed."),
                doing="discard",
            ),
        )

    console.ask_form(
        "A key archive that was destroyed",
        [
            Field("backup", "Backup", choices=tuple(one.backup_id for one in kept)),
            Field("sure", "Enter goes on", help="destroy the archive yourself first"),
        ],
        go_on,
    )


def _kept(one: Backup) -> Text:
    return facts([("backup", one.backup_id), ("made", moment(one.made_at)), ("where", one.where)])
