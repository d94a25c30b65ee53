"""Commands on policies: check a folder of them, explain a decision, print who may do what."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cloister.cli.output import JsonFlag, print_json, print_table, say
from cloister.cli.session import connect
from cloister.errors import InvalidInput

app = typer.Typer(no_args_is_help=True)
NOTHING = "no policy permits it"


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="The folder: a schema, *.cedar, and tests/*.json.")],
    json: JsonFlag = False,
) -> None:
    """Validate a set of policies and run its tests. Needs no appliance.

    Exit code 2: it is not valid, or a test gets another answer; the authority would not start with it, or
    should not.
    """
    from cloister.policy.cases import run_cases
    from cloister.policy.cedar import PolicySet

    policies = PolicySet.load(folder)
    results = run_cases(policies, folder / "tests")
    failed = [one for one in results if one.problem is not None]
    if failed:
        told = "; ".join(f"{one.where}: {one.problem}" for one in failed)
        raise InvalidInput(f"{len(failed)} of {len(results)} tests fail: {told}", where=str(folder))
    if json:
        print_json({"digest": policies.digest, "policies": len(policies.policies), "tests": len(results)})
        return
    say(
        f"{len(policies.policies)} policies fit the schema, {len(results)} tests pass. Digest {policies.digest}."
    )


@app.command()
def explain(
    action: Annotated[
        str, typer.Argument(help="An action, such as run.start; `cloister policy table` lists them.")
    ],
    kind: Annotated[
        str | None,
        typer.Argument(help="What it is done to, where that can be more than one: Dataset, Run, Model."),
    ] = None,
    account: Annotated[
        str | None, typer.Option("--as", metavar="USER", help="Another account of the system than your own.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Say whether an account may do something, which policies decided, and what would have to be true."""
    from cloister.api import PolicyQuestion
    from cloister.cli.validation import validated

    question = validated(PolicyQuestion, action=action, kind=kind, account=account)
    with connect() as client:
        answer = client.explain(question)
    if json:
        print_json(answer)
        return
    print(f"{'ALLOW' if answer.allowed else 'DENY'}  {answer.action} on a {answer.kind}")
    print(f"  account   {answer.account}: {', '.join(answer.roles) or 'no role'}")
    print(f"  decided   {answer.problem or ', '.join(answer.policies) or NOTHING}")
    print(f"  may       {', '.join(answer.roles_that_may) or 'no role'}")


@app.command()
def table(
    folder: Annotated[
        Path | None,
        typer.Argument(help="A folder of policies instead of those in force; needs no appliance."),
    ] = None,
    against: Annotated[
        Path | None, typer.Option("--against", help="Print only what FOLDER allows otherwise than this one.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="As a Markdown table.")] = False,
    json: JsonFlag = False,
) -> None:
    """Print who may do what: every action against every role, as the policies decide it."""
    cells, digest = _cells(folder, against)
    if json:
        print_json({"digest": digest, "cells": [vars(cell) for cell in cells]})
        return
    from cloister.policy.table import COLUMNS, as_markdown

    if against is not None:
        rows = [(c.action, c.kind, c.role, "now allowed" if c.allowed else "NO LONGER") for c in cells]
        print_table(("action", "on", "role", ""), rows, empty="Nothing comes out otherwise.")
        return
    if markdown:
        print(as_markdown(tuple(cells)), end="")
        return
    allowed = {(cell.action, cell.kind, cell.role): cell.allowed for cell in cells}
    things = dict.fromkeys((cell.action, cell.kind) for cell in cells)
    rows = [(a, k, *("yes" if allowed[a, k, role] else "-" for role in COLUMNS)) for a, k in things]
    print_table(("action", "on", *COLUMNS), rows, empty="")


def _cells(folder: Path | None, against: Path | None) -> tuple[list[Any], str]:
    from cloister.policy.cedar import PolicySet
    from cloister.policy.table import changed
    from cloister.policy.table import table as table_of

    if folder is not None:
        policies = PolicySet.load(folder)
        found = table_of(policies) if against is None else changed(PolicySet.load(against), policies)
        return list(found), policies.digest
    if against is not None:
        raise InvalidInput("a folder to compare with another is needed", where="--against")
    with connect() as client:
        answer = client.policy_table()
    return list(answer.cells), answer.digest
