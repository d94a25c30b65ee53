"""What the `shred` commands of datasets, runs and models share: the list, the question, the answer."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cloister.cli.output import moment, print_json, print_table, say, size, visible
from cloister.cli.session import connect

if TYPE_CHECKING:
    from cloister.api import Shred, ShredPlan

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only list what would go, and what stands in its way.")
]
TakeDown = Annotated[
    bool, typer.Option("--take-down", help="Stop what serves or reads any of it first, instead of refusing.")
]
Yes = Annotated[
    str | None,
    typer.Option("--yes", metavar="NAME", help="The thing's own name, instead of being asked for it."),
]


def shred(
    collection: str,
    reference: str,
    *,
    version: int | None,
    dry_run: bool,
    take_down: bool,
    yes: str | None,
    json: bool,
) -> None:
    """Show the plan; unless that is all, have the name repeated, and shred."""
    from cloister.api import ShredRequest
    from cloister.cli.validation import validated

    with connect() as client:
        plan = client.shred_plan(collection, reference, version)
        if not json:
            show_plan(plan)
        if dry_run:
            if json:
                print_json(plan)
            return
        confirm = yes if yes is not None else ask_name(plan.name)
        request = validated(ShredRequest, confirm=confirm, version=version, take_down=take_down)
        done = client.shred(collection, plan.object_id, request)
    if json:
        print_json(done)
    else:
        say_done(done)


def show_plan(plan: ShredPlan) -> None:
    """What goes, what uses it, what holds it, and which backups could still open it."""
    print_table(
        ("goes", "id", "version", "name", "size"),
        [
            (str(i.kind), i.object_id, i.version, i.name, size(i.sealed_bytes) if i.stored else "unfinished")
            for i in plan.items
        ]
        + [("run", run_id, "-", name, "-") for run_id, name in plan.runs.items()],
        empty="Nothing.",
    )
    if plan.kept_bodies:
        say(f"! {plan.kept_bodies} kept prompts and answers of its models go too")
    for use in plan.in_use:
        say(f"! in use: {visible(use.name)} ({use.id}): {visible(use.state)}")
    for hold in plan.holds:
        say(
            f"! legal hold on {hold.name} by {hold.placed_by} since {moment(hold.placed_at)}: {visible(hold.reason)}"
        )
    for backup in plan.backups:
        say(f"! backup {backup.backup_id} of {moment(backup.made_at)} ({visible(backup.where)}) holds keys")
    if plan.final_after is not None:
        say(
            f"Whoever keeps one of these key archives can restore it until {plan.final_after:%Y-%m-%d}, when the "
            "last is due to be destroyed."
        )


def ask_name(name: str) -> str:
    """The name, typed once more at the terminal."""
    from cloister.errors import InvalidInput

    if not sys.stdin.isatty():
        raise InvalidInput(
            "there is no terminal to ask for the name", remedy=f"Say `--yes {name}` if that is what you want."
        )
    print(
        "This cannot be undone. Type the name to shred all of the above: ",
        end="",
        file=sys.stderr,
        flush=True,
    )
    return sys.stdin.readline().strip()


def say_done(done: Shred) -> None:
    say(
        f"Shredded: {done.objects} objects ({size(done.sealed_bytes)}), {done.keys} keys destroyed; none of them "
        "opens any more."
    )
    if done.final_after is not None:
        say(
            f"Final after {done.final_after:%Y-%m-%d}, when the last key archive that could open them has gone."
        )
