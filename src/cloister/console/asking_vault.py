"""Forms about the vault: initialise, unlock, lock. What is typed goes to the authority and is not kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from cloister.console.screens.dialogs import Field

if TYPE_CHECKING:
    from cloister.api import Opening
    from cloister.console.app import ConsoleApp

KINDS = ("passphrase", "shares", "token")


def ask_initialise(console: ConsoleApp) -> None:
    """A first passphrase, twice."""

    def go_on(values: dict[str, str]) -> None:
        if values["passphrase"] != values["again"]:
            console.say("The two passphrases differ; nothing was made.", "bad")
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
            Field("secret", "Passphrase, share or PIN", secret=True, needed=True),
        ],
        go_on,
    )


def ask_lock(console: ConsoleApp) -> None:
    """Refuse, drain or cut off what runs."""
    from cloister.api import LockRequest

    def go_on(values: dict[str, str]) -> None:
        console.say("Locking …", "info")
        request = LockRequest.model_validate({"mode": values["mode"]})
        console.request(
            lambda client: client.lock(request), lambda _: console.say("The vault is locked."), doing="lock"
        )

    console.ask_form(
        "Lock the vault",
        [
            Field(
                "mode",
                "Where work runs",
                choices=("refuse", "drain", "cut"),
                help="drain: wait for it; cut: stop it, runs can be resumed",
            ),
            Field("sure", "Enter locks", help="nothing to type"),
        ],
        go_on,
    )
