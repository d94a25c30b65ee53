"""Commands on policies: check a folder of them, explain a decision, print who may do what."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cloister.cli.output import JsonFlag, print_json, print_table, say, visible
from cloister.cli.session import connect
from cloister.errors import InvalidInput

if TYPE_CHECKING:
    from cloister.api import PolicyRule

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
    from cloister.policy.guards import refuse_unknown_names

    policies = PolicySet.load(folder)
    refuse_unknown_names(policies, str(folder))
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
    thing: Annotated[
        str | None,
        typer.Argument(metavar="[OBJECT]", help="What it would be done to: its name or id."),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--on", metavar="KIND", help="Where the action has several: Dataset, Run, Model, Deployment."
        ),
    ] = None,
    form: Annotated[
        Literal["encrypted", "plain"] | None,
        typer.Option(help="In which form, for an export; the strictest unless given."),
    ] = None,
    account: Annotated[
        str | None, typer.Option("--as", metavar="USER", help="Another account of the system than your own.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Say whether an account may do something, which policies decided, and what would have to be true.

    Of a denial it prints what the policies know of the object, and those that forbid it, or that would permit it to
    this account where what they say held, as the set in force has them. Without an object it is about the strictest of
    its kind.
    """
    from cloister.api import PolicyQuestion
    from cloister.cli.validation import validated

    question = validated(PolicyQuestion, action=action, kind=kind, thing=thing, form=form, account=account)
    with connect() as client:
        answer = client.explain(question)
    if json:
        print_json(answer)
        return
    word = {"yes": "ALLOW", "no": "DENY"}.get(answer.demand, f"ALLOW with a{_n(answer.demand)}")
    what = f"a {answer.kind}" if answer.thing is None else f"the {answer.kind} {answer.thing}"
    how = f" ({answer.form})" if answer.form else ""
    strict = f" ({answer.classification})" if answer.classification else ""
    print(visible(f"{word}  {answer.action}{how} on {what}{strict}"))
    print(visible(f"  account   {answer.account}: {', '.join(answer.roles) or 'no role'}"))
    print(f"  decided   {answer.problem or ', '.join(answer.policies) or NOTHING}")
    print(f"  may       {', '.join(answer.roles_that_may) or 'no role'}")
    if answer.demand == "no":
        told = ", ".join(f"{name} {value}" for name, value in answer.attributes.items())
        if told:
            print(visible(f"  it has    {told}"))
        _print_rules("forbids", answer.forbids, "")
        _print_rules("permits", answer.permits, ", where this holds")
    if answer.demand not in ("yes", "no"):
        print("  then      give the command: it asks for the approval, and goes through once that is given")


def _print_rules(effect: str, rules: Sequence[PolicyRule], where: str) -> None:
    for rule in rules:
        print(visible(f"  {effect}   {rule.policy_id}, in {rule.file}{where}:"))
        for line in rule.source.splitlines():
            print(f"    {visible(line)}".rstrip())


def _n(demand: str) -> str:
    return f"n {demand}" if demand[0] in "aeiou" else f" {demand}"


@app.command()
def propose(
    folder: Annotated[Path, typer.Argument(help="The folder: a schema, *.cedar, and tests/*.json.")],
    json: JsonFlag = False,
) -> None:
    """Put another set of policies in force. It must be valid and pass its tests, and takes an approval.

    Asked for, the change waits with a list of the cells that it changes; approved, give the command again.
    Whatever else waits or was approved before is void then, but for what is served under an approval: that comes
    back where the new set is content with it. `cloister alerts` names what would not.
    """
    from cloister.api import PolicyProposal
    from cloister.policy.cedar import PolicySet

    policies = PolicySet.load(folder)
    tests = {path.name: _text(path) for path in sorted((folder / "tests").glob("*.json"))}
    with connect() as client:
        info = client.propose_policies(PolicyProposal(files=policies.files, tests=tests))
    print_json(info) if json else say(f"In force: {info.digest}.")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise InvalidInput("cannot be read as text", where=str(path)) from None


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
    if against is not None:
        _print_changes(folder, against, json=json)
        return
    cells, digest = _cells(folder)
    if json:
        print_json({"digest": digest, "cells": [{**vars(cell), "demand": cell.demand} for cell in cells]})
        return
    from cloister.policy.table import COLUMNS, as_markdown, rows

    if markdown:
        print(as_markdown(tuple(cells)), end="")
        return
    print_table(("action", "on", "class", *COLUMNS), rows(tuple(cells)), empty="")


def _print_changes(folder: Path | None, against: Path, *, json: bool) -> None:
    from cloister.policy.cedar import PolicySet
    from cloister.policy.table import changed

    if folder is None:
        raise InvalidInput("a folder to compare with another is needed", where="--against")
    policies = PolicySet.load(folder)
    found = changed(PolicySet.load(against), policies)
    if json:
        cells = [{**vars(cell), "demand": cell.demand, "before": before} for cell, before in found]
        print_json({"digest": policies.digest, "cells": cells})
        return
    lines = [(c.doing, c.kind, c.classification, c.role, f"{before} -> {c.demand}") for c, before in found]
    print_table(("action", "on", "class", "role", ""), lines, empty="Nothing comes out otherwise.")


def _cells(folder: Path | None) -> tuple[list[Any], str]:
    """Of the policies in a folder, or of those in force."""
    from cloister.policy.cedar import Demand, PolicySet
    from cloister.policy.table import Cell
    from cloister.policy.table import table as table_of

    if folder is not None:
        policies = PolicySet.load(folder)
        return list(table_of(policies)), policies.digest
    with connect() as client:
        answer = client.policy_table()
    cells = [
        Cell(
            c.action,
            c.kind,
            c.classification,
            c.role,
            Demand(c.demand),
            tuple(c.policies),
            c.form,
            c.situation,
        )
        for c in answer.cells
    ]
    return cells, answer.digest
