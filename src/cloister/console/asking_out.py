"""What goes out: one person's rows, out of a dataset's next version; a merged model, out of the house.

Identifiers go to the authority and are not kept. A model leaves through the command line's own child process.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from cloister.console.asking import checked, ended, followed, given
from cloister.console.commands import cloister
from cloister.console.paint import facts, number, outside, stack
from cloister.console.screens.dialogs import Field
from cloister.shown import size, visible

if TYPE_CHECKING:
    from cloister.api import Job, StoredObject
    from cloister.console.app import ConsoleApp

IDENTIFIERS = ("first", "second", "third", "fourth")
LONGEST_S = 24 * 3600


def ask_forget(console: ConsoleApp, one: StoredObject) -> None:
    """What the person is known by, then the next version without the rows that mention it."""
    from cloister.api import ForgetConfig, ForgetRequest

    def go_on(values: dict[str, str]) -> None:
        told = tuple(values[name].strip() for name in IDENTIFIERS if values[name].strip())
        request = given(
            console,
            lambda: checked(
                ForgetRequest,
                config=checked(
                    ForgetConfig, identifiers=told, whole_words=values["where"] == "whole words"
                ).model_dump(),
            ),
        )
        if request is not None:
            console.say(f"Looking through {one.name} …", "info")
            console.request(
                lambda client: followed(client, client.forget(one.object_id, request), console.post_message),
                lambda job: _forgotten(console, one, job),
                doing=f"forget in {one.name}",
            )

    fields = [
        Field(name, f"{name.capitalize()} identifier", secret=True, needed=name == "first", help=help)
        for name, help in zip(
            IDENTIFIERS, ("a name, an address, a number; not shown", "may stay empty", "", ""), strict=True
        )
    ]
    console.ask_form(
        "Forget a person",
        [
            *fields[:-1],
            Field("where", "Found", choices=("anywhere in a text", "whole words")),
            fields[-1],
        ],
        go_on,
        note=outside(f"{one.name}: the version with these rows stays until it is shredded", style="bold"),
    )


def _forgotten(console: ConsoleApp, one: StoredObject, job: Job) -> None:
    result = job.result
    if not ended(console, job, f"{one.name} has a version {result.get('version')} without these rows."):
        return
    shred = f"cloister dataset shred {one.name} --version {one.version}"
    console.tell(
        f"Forgotten in {visible(one.name, limit=60)}",
        stack(
            facts(
                [
                    ("version", number(result.get("version"))),
                    ("rows", number(result.get("rows"))),
                    ("left out", number(result.get("rows_forgotten"))),
                    (
                        "identifiers found",
                        f"{result.get('identifiers_found')} of {result.get('identifiers')}",
                    ),
                ]
            ),
            Text(f"Version {one.version} is still there. When its successors have replaced it:"),
            outside(shred, style="bold"),
        ),
        copied=shred,
    )


def ask_export(console: ConsoleApp, one: StoredObject) -> None:
    """Where it goes and for whom; the model's name; then it goes, where that is approved."""
    status = console.picture.status
    if status is None:
        return
    home = status.home

    def go_on(values: dict[str, str]) -> None:
        folder = str(Path(values["folder"]).expanduser().absolute())
        given_to = [word for one in values["recipients"].split() for word in ("--recipient", one)]
        console.confirm(
            "Take a model out of the house",
            stack(
                facts(
                    [
                        ("model", f"{one.name} ({one.object_id})"),
                        ("size", size(one.sealed_bytes)),
                        ("to", folder),
                        ("form", f"encrypted to {values['recipients']}" if given_to else "IN THE CLEAR"),
                    ]
                ),
                Text("It is signed and recorded. Where there are roles, each export takes its own approval."),
            ),
            one.name,
            "take it out",
            lambda: _export(console, home, one, folder, given_to),
        )

    console.ask_form(
        "Take a model out of the house",
        [
            Field("folder", "A new folder", help="for example on a USB stick", needed=True),
            Field("recipients", "age recipients", help="age1…, several with spaces; empty: in the clear"),
        ],
        go_on,
        note=outside(one.name, style="bold"),
    )


def _export(console: ConsoleApp, home: str, one: StoredObject, folder: str, given_to: list[str]) -> None:
    def done(told: dict[str, Any]) -> None:
        console.say(
            f"{told['folder']}: {one.name}, {told.get('files', 0)} files, {size(int(told.get('bytes', 0)))}, signed."
        )

    console.say(f"Taking {one.name} out …", "info")
    how = given_to or ["--plain"]
    console.request(
        lambda _: cloister(home, "model", "export", one.object_id, folder, *how, longest_s=LONGEST_S),
        done,
        doing=f"export {one.name}",
    )
