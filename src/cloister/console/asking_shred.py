"""A shred: what it takes with it first, from the authority; then the name typed; then it is done and proved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from cloister.console.paint import grid, marked, outside, stack, state, titled
from cloister.shown import moment, size, visible

if TYPE_CHECKING:
    from cloister.api import Shred, ShredPlan
    from cloister.console.app import ConsoleApp

NOUNS = {"datasets": "dataset", "runs": "run", "models": "model"}


def ask_shred(console: ConsoleApp, collection: str, reference: str) -> None:
    """Show the plan, have the name typed, shred. What uses it is only stopped where that is said."""

    def planned(plan: ShredPlan) -> None:
        doing = "stop what uses it and shred all of it" if plan.in_use else "shred all of it"
        console.confirm(
            f"Shred the {NOUNS[collection]} {visible(plan.name)}: this cannot be undone",
            lineage(plan),
            plan.name,
            doing,
            lambda: _shred(console, collection, plan),
        )

    console.say("Asking what it would take with it …", "info")
    console.request(
        lambda client: client.shred_plan(collection, reference), planned, doing="see what a shred takes"
    )


def _shred(console: ConsoleApp, collection: str, plan: ShredPlan) -> None:
    from cloister.api import ShredRequest

    request = ShredRequest(confirm=plan.name, take_down=bool(plan.in_use))

    def done(shred: Shred) -> None:
        final = f" Final after {shred.final_after:%Y-%m-%d}." if shred.final_after else ""
        console.say(
            f"Shredded {shred.name}: {shred.objects} objects, {size(shred.sealed_bytes)}, {shred.keys} keys.{final}"
        )

    console.say(f"Shredding {plan.name} …", "info")
    console.request(
        lambda client: client.shred(collection, plan.object_id, request), done, doing=f"shred {plan.name}"
    )


def lineage(plan: ShredPlan) -> Text:
    """What goes, what uses it now, what holds it, which backups could still open it."""
    rows = [
        (str(item.kind), item.name, f"version {item.version}", size(item.sealed_bytes), item.object_id)
        for item in plan.items
    ] + [("run", name, "", "", run_id) for run_id, name in plan.runs.items()]
    parts = [titled(f"{len(rows)} things go:", grid(rows))]
    if plan.kept_bodies:
        parts.append(marked("warn", f"{plan.kept_bodies} kept prompts and answers of its models go too"))
    for use in plan.in_use:
        parts.append(
            state("in use", "warn") + outside(f": {use.name} ({use.id}) {use.state}; it is stopped first")
        )
    for hold in plan.holds:
        why = f" legal hold by {hold.placed_by} since {moment(hold.placed_at)}: {hold.reason}"
        parts.append(state("held", "bad") + outside(why))
    for backup in plan.backups:
        parts.append(
            state("backup", "warn") + outside(f" {backup.backup_id} of {moment(backup.made_at)} holds keys")
        )
    if plan.final_after is not None:
        parts.append(marked("warn", f"Key archives can bring it back until {plan.final_after:%Y-%m-%d}."))
    return stack(*parts)
