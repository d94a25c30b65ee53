"""Forms about the vault: initialise, unlock, lock. What is typed goes to the authority and is not kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from cloister.console.paint import outside, stack, titled
from cloister.console.screens.dialogs import Field
from cloister.shown import describe

if TYPE_CHECKING:
    from cloister.api import Opening
    from cloister.console.app import ConsoleApp

KINDS = ("passphrase", "shares", "token")
MODES = {
    "leave the vault open": "refuse",
    "wait for its end, then lock": "drain",
    "stop it and lock: runs can be resumed": "cut",
}
"""What becomes of work that runs."""


def ask_initialise(console: ConsoleApp) -> None:
    """A first passphrase, twice."""
    status = console.picture.status
    if status is not None and status.initialised:
        console.say(
            "The vault is made already" + (": u unlocks it." if status.locked else " and open."), "warn"
        )
        return

    def go_on(values: dict[str, str]) -> None:
        if values["passphrase"] != values["again"]:
            console.mistaken("the two passphrases differ; nothing was made")
            return
        console.say("Making the vault …", "info")
        console.request(
            lambda client: client.initialise(values["passphrase"]),
            lambda _: console.say(
                "The vault is made and open. Keep the passphrase: nothing opens without it."
            ),
            doing="initialise",
        )

    console.ask_form(
        "Make the vault of this appliance",
        [
            Field("passphrase", "Passphrase", secret=True, needed=True),
            Field("again", "Once more", secret=True, needed=True),
        ],
        go_on,
        note=Text("Without this passphrase nothing that is sealed here can ever be read.\n"),
    )


def ask_unlock(console: ConsoleApp) -> None:
    """A passphrase, recovery shares one at a time, or a token's PIN."""
    status = console.picture.status
    if status is not None and not status.initialised:
        console.say("There is no vault yet: v makes it.", "warn")
        return
    if status is not None and not status.locked:
        console.say("The vault is open already: l locks it.", "warn")
        return
    from cloister.api import SlotSecret

    def go_on(values: dict[str, str]) -> None:
        kind, secret = values["kind"], values["secret"]
        given = {
            "passphrase": SlotSecret(kind="passphrase", passphrase=secret) if kind == "passphrase" else None,
            "shares": SlotSecret(kind="shares", shares=(secret,)) if kind == "shares" else None,
            "token": SlotSecret(kind="token", pin=secret) if kind == "token" else None,
        }[kind]
        assert given is not None

        def opened(opening: Opening) -> None:
            if opening.open:
                console.say("The vault is open.")
            else:
                console.say(
                    f"{opening.given} of {opening.needed} shares; the others may come from elsewhere.", "warn"
                )

        console.say("Unlocking …", "info")
        console.request(lambda client: client.open_with(given), opened, doing="unlock")

    console.ask_form(
        "Unlock the vault",
        [
            Field("kind", "With", choices=KINDS),
            Field("secret", "Passphrase, share or PIN", secret=True, needed=True, begins=True),
        ],
        go_on,
    )


def ask_lock(console: ConsoleApp) -> None:
    """Refuse, drain or cut off what runs. What cuts off shows that first, and takes the appliance's name."""
    status = console.picture.status
    if status is not None and status.locked:
        told = "There is no vault yet." if not status.initialised else "The vault is locked already."
        console.say(told, "warn")
        return
    from cloister.api import LockRequest

    def lock(mode: str) -> None:
        console.say("Locking …", "info")
        request = LockRequest.model_validate({"mode": mode})
        console.request(
            lambda client: client.lock(request), lambda _: console.say("The vault is locked."), doing="lock"
        )

    def go_on(values: dict[str, str]) -> None:
        mode = MODES[values["mode"]]
        if mode != "cut":
            lock(mode)
            return
        console.confirm(
            "Lock, and cut off what runs",
            _cut_off(console),
            console.appliance,
            "cut it off",
            lambda: lock("cut"),
        )

    console.ask_form(
        "Lock the vault",
        [
            Field(
                "mode",
                "Where work runs",
                choices=tuple(MODES),
                kept=False,
            ),
            Field("sure", "Enter locks", help="nothing to type", begins=True),
        ],
        go_on,
    )


def _cut_off(console: ConsoleApp) -> Text:
    """What runs and is served now."""
    picture = console.picture
    jobs = [
        outside(f"{picture.holder(job.job_id)}: {describe(job)}")
        for job in picture.jobs
        if job.state == "running"
    ]
    served = [
        outside(f"{one.name} ({one.deployment_id}): its clients get errors until the vault is open again")
        for one in picture.deployments
        if one.state not in ("stopped", "failed")
    ]
    return stack(
        titled("These jobs stop", Text("\n").join(jobs)),
        titled("These are served no longer", Text("\n").join(served)),
        Text("Runs can be resumed. What somebody else began meanwhile is cut off as well."),
    )
