"""Screen 7: the ledger as it grows, searched, page by page; an entry's proof checked on the spot; export."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual.binding import BindingType

from cloister.console.commands import cloister
from cloister.console.paint import COLOURS, NAME, facts, outside, stack, state, styled
from cloister.console.picture import Picture
from cloister.console.proving import Proved, holds, prove, save, shown, told
from cloister.console.remedies import with_keys
from cloister.console.screens.dialogs import Field
from cloister.console.screens.place import ListPlace, bindings
from cloister.console.widgets.rows import Line, Rows
from cloister.shown import moment

if TYPE_CHECKING:
    from cloister.api import LedgerEntry, LedgerMatches, LedgerName

PAGE = 200
LOOK_EVERY_S = 2.0
REFUSALS = ("deny", "denied", "refused")


class AuditPlace(ListPlace):
    """The newest entry is the first line. `wanted` are the conditions of a search."""

    scope = "audit"
    BINDINGS: ClassVar[list[BindingType]] = bindings("audit")
    needs: ClassVar[tuple[str, ...]] = ("status",)
    columns = ("entry", "time", "who", "did", "decided", "to")
    least: ClassVar[Mapping[str, int]] = {"who": 9, "did": 12, "to": 16}
    empty = "No entry yet."

    def __init__(self) -> None:
        super().__init__()
        self._ledger: LedgerName = "control"
        self._wanted: dict[str, Any] = {}
        self._before: int | None = None
        self._found: LedgerMatches | None = None
        self._problem: str | None = None
        self._asked = False
        self._proofs: dict[tuple[str, int], Text] = {}

    def on_mount(self) -> None:
        super().on_mount()
        self.set_interval(LOOK_EVERY_S, self._look)

    def on_screen_resume(self) -> None:
        super().on_screen_resume()
        self.call_after_refresh(self._ask)

    def _look(self) -> None:
        """Ask again while this screen is in front and shows the newest."""
        if self.is_current and self._before is None:
            self._ask()

    def _ask(self) -> None:
        if (
            self._asked
            or self.console.picture.away is not None
            or not self.console.picture.may("ledger.read")
        ):
            return
        self._asked = True
        wanted = {"ledger": self._ledger, "before": self._before, **self._wanted}
        self.console.request(
            lambda client: client.search_ledger(PAGE, **wanted),
            self._take,
            doing="read the ledger",
            failed=self._failed,
            quiet=True,
        )

    def _take(self, found: LedgerMatches) -> None:
        self._asked, self._problem = False, None
        before = self._found
        self._found = found
        if before is None or before.entries != found.entries:
            self.show(self.console.picture)

    def _failed(self, problem: str) -> None:
        self._asked, self._problem, self._found = False, problem, None
        self.show(self.console.picture)

    def lines(self, picture: Picture) -> list[Line]:
        self.query_one(Rows).head((self._ledger, *self.columns[1:]))
        entries = self._found.entries if self._found is not None else []
        return [
            self.line(f"{self._ledger}:{entry.index}", (entry,), partial(_cells, entry))
            for entry in reversed(entries)
        ]

    def greeting(self, picture: Picture) -> Text:
        if not picture.may("ledger.read"):
            return styled("Not shown: ", "bold red") + Text(
                "the policies do not let your roles read the ledger."
            )
        if self._problem is not None:
            return styled("Not shown: ", "bold red") + outside(self._problem)
        if self._found is None and picture.away is not None:
            return Text("The authority is away, nothing was read yet.\n") + outside(picture.away)
        if self._found is None:
            return Text("Reading …", "dim")
        return Text("No entry matches. Esc shows all of them.") if self._wanted else Text(self.empty)

    def about(self, key: str, picture: Picture) -> Text:
        entry = self._entry(key)
        if entry is None:
            return Text("")
        proof = self._proofs.get(
            (self._ledger, entry.index),
            Text("p checks its inclusion proof here, t saves it to a file.", "dim"),
        )
        known = {one: picture.name_of(one) for one in (entry.actor, *entry.objects)}
        named = ", ".join(f"{one} is {name}" for one, name in known.items() if name != one)
        return stack(shown(entry), facts([("named", named)]), proof)

    def _entry(self, key: str | None) -> LedgerEntry | None:
        entries = self._found.entries if self._found is not None else []
        return next((one for one in entries if f"{self._ledger}:{one.index}" == key), None)

    # --- actions ------------------------------------------------------------------------------

    def do_back(self) -> None:
        if not self.has_class("-open") and (self._wanted or self._before is not None):
            self._wanted, self._before = {}, None
            self._ask()
        super().do_back()

    def do_audit_switch(self) -> None:
        self._ledger = "gateway" if self._ledger == "control" else "control"
        self._before, self._found = None, None
        self.console.say(f"The {self._ledger} ledger: " + WHAT[self._ledger])
        self.show(self.console.picture)
        self._ask()

    def do_audit_older(self) -> None:
        if self._found is None or not self._found.more or not self._found.entries:
            self.console.say("These are the oldest.", "warn")
            return
        self._before = self._found.entries[0].index
        self.console.say(f"Entries before {self._before}; n goes back to the newest.", "info")
        self._ask()

    def do_audit_newest(self) -> None:
        self._before = None
        self._ask()

    def do_audit_search(self) -> None:
        def go_on(values: dict[str, str]) -> None:
            self._wanted = {name: value for name, value in values.items() if value}
            self._before = None
            sought = ", ".join(f"{name} {value}" for name, value in self._wanted.items())
            if sought:
                self.console.say(
                    f"Only what fits of the {self._ledger} ledger: {sought}. Esc shows all.", "info"
                )
            self._ask()

        self.console.ask_form(
            f"Search the {self._ledger} ledger",
            [
                Field("actor", "Who", help="an account or a client's id; * at the end: any rest"),
                Field("action", "Did what", help="such as vault.unlock or job.*"),
                Field("object", "To what", help="an id"),
                Field("since", "Since", help="2026-11-21 or 2026-11-21T14:30"),
            ],
            go_on,
        )

    def do_audit_verify(self) -> None:
        entry = self._entry(self.chosen.key if self.chosen else None)
        if entry is None:
            self.console.say("The cursor is on no entry.", "warn")
            return
        ledger = self._ledger

        def checked(answer: tuple[Proved, str]) -> None:
            proved, vkey = answer
            self._proofs[ledger, entry.index] = told(entry, proved, vkey)
            good = holds(entry, proved)
            self.console.say(
                f"Entry {entry.index}: {'verified' if good else 'NOT VERIFIED'}.", "good" if good else "bad"
            )
            self.show(self.console.picture)
            self.do_open()

        self.console.say("Asking for the proof …", "info")
        self.console.request(
            lambda client: prove(client, ledger, entry.index), checked, doing=f"prove {entry.index}"
        )

    def do_audit_prove(self) -> None:
        entry = self._entry(self.chosen.key if self.chosen else None)
        if entry is None:
            self.console.say("The cursor is on no entry.", "warn")
            return
        ledger = self._ledger
        self.console.ask_form(
            f"Save the proof of entry {entry.index}",
            [Field("file", "A new file", f"entry-{ledger}-{entry.index}.proof", needed=True)],
            lambda values: self.console.request(
                lambda client: save(client, ledger, entry.index, Path(values["file"]).expanduser()),
                lambda path: self.console.say(
                    f"{path} is written: the verifier checks it, with the ledger's key."
                ),
                doing="save the proof",
                quiet=True,
            ),
        )

    def do_audit_witnesses(self) -> None:
        status = self.console.picture.status
        if status is None:
            return
        parts = [
            stack(
                outside(one.ledger, style="bold"),
                state("UNWITNESSED", "warn") if one.overdue_since else state("witnessed", "good"),
                facts(
                    [
                        (
                            "head left",
                            f"{moment(one.left_at)}, {one.left_size} entries" if one.left_at else "never",
                        ),
                        (
                            "cosigned",
                            f"{moment(one.cosigned_at)} by {one.cosigned_by}, {one.cosigned_size} entries"
                            if one.cosigned_at
                            else "never",
                        ),
                        ("next", with_keys(one.command, self.scope)),
                    ]
                ),
            )
            for one in status.ledger.witnesses
        ]
        self.console.tell(
            "Tree heads and witnesses", stack(*parts) if parts else Text("Nothing is signed yet.")
        )

    def do_audit_export(self) -> None:
        status = self.console.picture.status
        if status is None:
            return
        self.console.ask_form(
            "Copy both ledgers out",
            [Field("folder", "A new folder", help="for example on a USB stick", needed=True)],
            lambda values: self.console.request(
                lambda _: cloister(
                    status.home, "audit", "export", str(Path(values["folder"]).expanduser().absolute())
                ),
                lambda _: self.console.say(
                    f"Copied to {values['folder']}. An auditor checks it with the verifier."
                ),
                doing="export",
            ),
        )


WHAT = {"control": "what people and jobs did.", "gateway": "requests to the models."}


def _cells(entry: LedgerEntry) -> tuple[Text, ...]:
    return (
        Text(str(entry.index)),
        outside(_clock(entry.time), 14),
        outside(entry.actor, NAME),
        outside(entry.action, NAME),
        _decision(entry),
        outside(" ".join(entry.objects), 2 * NAME),
    )


def _clock(time: str) -> str:
    try:
        return datetime.fromisoformat(time).astimezone().strftime("%m-%d %H:%M:%S")
    except ValueError:
        return time


def _decision(entry: LedgerEntry) -> Text:
    word = entry.decision or ""
    return outside(word, 16, COLOURS["bad"] if word in REFUSALS else "")


PLACE = AuditPlace
