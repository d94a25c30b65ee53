"""Rolling back: a name serves again what it served before, after that name was typed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from cloister.console.paint import facts, stack
from cloister.console.picture import Picture
from cloister.shown import moment

if TYPE_CHECKING:
    from cloister.api import Deployment
    from cloister.client import Client
    from cloister.console.app import ConsoleApp

ENDED = ("stopped", "failed")


def ask_rollback(console: ConsoleApp, one: Deployment) -> None:
    """What is served now and then; the name; then what runs is stopped and the other one starts."""
    before = previous(one, console.picture)
    if before is None:
        console.say(f"{one.name} served no other model before this one that is still there.", "warn")
        return
    shown = facts(
        [
            ("now", f"{console.picture.name_of(one.model)} ({one.model}), {one.state}"),
            ("then", f"{console.picture.name_of(before.model)} ({before.model})"),
            ("last served", f"{moment(before.created_at)} by {before.created_by}"),
        ]
    )
    console.confirm(
        "Roll back",
        stack(Text("What runs is stopped first. An approval that still stands is used again."), shown),
        one.name,
        "roll back",
        lambda: console.request(
            lambda client: roll_back(client, one, before),
            lambda back: console.say(f"{back.name} is {back.state} with what it served before."),
            doing=f"roll {one.name} back",
        ),
    )


def previous(one: Deployment, picture: Picture) -> Deployment | None:
    """The last deployment under that name, before this one, of another model that is still there."""
    there = {model.object_id for model in picture.models}
    earlier = [
        other
        for other in picture.deployments
        if other.name == one.name
        and other.created_at < one.created_at
        and other.model != one.model
        and other.model in there
    ]
    return max(earlier, key=lambda other: other.created_at, default=None)


def roll_back(client: Client, one: Deployment, before: Deployment) -> Deployment:
    """Stop one, and serve the other's model under the same name. Errors: those of both."""
    from cloister.api import ServeRequest

    if one.state not in ENDED:
        client.stop_deployment(one.deployment_id)
    return client.serve(ServeRequest(name=before.name, model=before.model, config=before.config))
