"""Screen 8: alerts, this machine's check, settings, policies, unlock slots, backups, devices, sinks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual.binding import BindingType

from cloister.console import disks
from cloister.console import system_parts as parts
from cloister.console.asking_keeping import ask_backup, ask_discard, ask_new_slot, ask_slot_removal
from cloister.console.asking_vault import ask_initialise, ask_lock, ask_unlock
from cloister.console.commands import cloister
from cloister.console.denial import ask_why, told
from cloister.console.disks import Disk
from cloister.console.paint import outside, state
from cloister.console.picture import Picture
from cloister.console.screens.dialogs import Field
from cloister.console.screens.overview import about_alert, acknowledge
from cloister.console.screens.place import ListPlace, bindings
from cloister.console.widgets.rows import Line
from cloister.shown import visible

if TYPE_CHECKING:
    from cloister.api import PolicyTable


class SystemPlace(ListPlace):
    """Alerts first, then one line a part of the system; Enter opens it."""

    scope = "system"
    BINDINGS: ClassVar[list[BindingType]] = bindings("system")
    needs: ClassVar[tuple[str, ...]] = ("status", "alerts", "whoami", "slots", "backups")
    columns = ("part", "state", "in it")

    def __init__(self) -> None:
        super().__init__()
        self._doctor: list[dict[str, Any]] | None = None
        self._table: PolicyTable | None = None
        self._disks: list[Disk] | None = None
        self._problems: dict[str, str] = {}

    def lines(self, picture: Picture) -> list[Line]:
        if picture.status is None:
            return []
        alerts = [
            Line(
                f"alert:{one.key}",
                (Text("alert"), state(one.severity), outside(one.cause, 200)),
                copied=one.key,
            )
            for one in picture.alerts
        ]
        return [*alerts, *(Line(key, cells) for key, cells in parts.listed(picture, self._doctor))]

    def about(self, key: str, picture: Picture) -> Text:
        if key.startswith("alert:"):
            for alert in picture.alerts:
                if f"alert:{alert.key}" == key:
                    return about_alert(alert, self.console.clock(), self.scope)
        if key == "doctor":
            return parts.doctor(self._doctor, self._problems.get("doctor"))
        if key == "policy":
            return parts.policies(self._table, self._problems.get("policy"))
        if key == "disks":
            return disks.told(self._disks)
        return parts.ABOUT[key](picture) if key in parts.ABOUT else Text("")

    def do_open(self) -> None:
        key = self.chosen.key if self.chosen else None
        if key == "doctor" and self._doctor is None:
            self.do_doctor()
        if key == "policy" and self._table is None:
            self.console.say("Reading the policies …", "info")
            self.console.request(
                lambda client: client.policy_table(),
                lambda table: self._keep(table=table),
                doing="read the policies",
                failed=lambda why: self._keep(problem=("policy", why)),
                quiet=True,
            )
        if key == "disks":
            self._look_at_disks()
        super().do_open()

    def _look_at_disks(self) -> None:
        """Anew each time: what was seen before stands there until then."""
        found = disks.places(self.console.picture)
        self.console.say("Looking at the disks …", "info")
        self.console.request(
            lambda _: disks.look(found),
            lambda seen: self._keep(seen=seen),
            doing="look at the disks",
            quiet=True,
        )

    def _keep(
        self,
        *,
        table: PolicyTable | None = None,
        doctor: list[dict[str, Any]] | None = None,
        seen: list[Disk] | None = None,
        problem: tuple[str, str] | None = None,
    ) -> None:
        """What came of a request, and show it."""
        self._table = table or self._table
        self._doctor = doctor if doctor is not None else self._doctor
        if seen is not None:
            self._disks = seen
        if seen is not None or table is not None:
            self.console.hush()
        if problem is not None:
            self._problems[problem[0]] = problem[1]
        self.show(self.console.picture)

    # --- actions ------------------------------------------------------------------------------

    def do_doctor(self) -> None:
        status = self.console.picture.status
        if status is None:
            return
        self.console.say("Looking at this machine …", "info")
        self.console.request(
            lambda _: cloister(status.home, "doctor", "--quick"),
            self._looked,
            doing="doctor",
        )

    def _looked(self, answer: dict[str, Any]) -> None:
        self._keep(doctor=list(answer["findings"]))
        bad = sum(one["state"] == "bad" for one in answer["findings"])
        self.console.say(
            f"{bad} things are bad." if bad else "This machine is fit.", "bad" if bad else "good"
        )

    def do_slot_add(self) -> None:
        ask_new_slot(self.console)

    def do_slot_remove(self) -> None:
        ask_slot_removal(self.console)

    def do_backup_make(self) -> None:
        ask_backup(self.console)

    def do_backup_discard(self) -> None:
        ask_discard(self.console)

    def do_support_bundle(self) -> None:
        status = self.console.picture.status
        if status is None:
            return
        self.console.ask_form(
            "An archive for who helps from outside",
            [Field("file", "A new file", help="such as ~/support.tar.gz", needed=True)],
            lambda values: self.console.request(
                lambda _: cloister(
                    status.home, "support", "bundle", str(Path(values["file"]).expanduser().absolute())
                ),
                lambda done: self.console.say(
                    f"{done['file']} is written. Its README says what is in it: look before it goes."
                ),
                doing="support bundle",
                quiet=True,
            ),
            note=Text(
                "States, figures, errors and logs: no row, prompt or key, and numbers in the place of names."
            ),
        )

    def do_policy_explain(self) -> None:
        def go_on(values: dict[str, str]) -> None:
            action = values["action"]
            self.console.request(
                lambda client: ask_why(client, action, values["account"] or None, values["thing"] or None),
                lambda answers: self.console.tell(
                    f"Who may: {visible(action)}", told(action, answers, self.console.picture)
                ),
                doing="explain",
                quiet=True,
            )

        self.console.ask_form(
            "Explain a decision",
            [
                Field(
                    "action", "Action", help="as the policy table names it, such as run.start", needed=True
                ),
                Field("account", "Account", help="empty: yourself"),
                Field("thing", "On what", help="a name or an id; empty: the strictest of its kind"),
            ],
            go_on,
        )

    def do_alert_acknowledge(self) -> None:
        acknowledge(self, self.chosen_id())

    def do_vault_init(self) -> None:
        ask_initialise(self.console)

    def do_vault_unlock(self) -> None:
        ask_unlock(self.console)

    def do_vault_lock(self) -> None:
        ask_lock(self.console)


PLACE = SystemPlace
