"""Approvals: what was asked for, as the authority froze it; approve by its name, refuse with a reason.

The dialog's own words stand above; what somebody asked for is outside text in every line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from cloister.console.asking import checked, given
from cloister.console.paint import facts, outside, quoted, stack, state, styled, titled
from cloister.console.screens.dialogs import Field
from cloister.shown import moment, until, visible

if TYPE_CHECKING:
    from cloister.api import Approval
    from cloister.console.app import ConsoleApp
    from cloister.console.picture import Picture


def shown(approval: Approval) -> Text:
    """The request, its digest, and who decided."""
    signature = "the approver's, with their own SSH key" if approval.signature_needed else "none needed"
    rest = f"there is more: `cloister approval show {visible(approval.approval_id, limit=40)}`"
    return stack(
        state(approval.state) + outside(f"  {approval.action}"),
        facts(
            [
                ("name", approval.name),
                ("class", approval.classification),
                ("asked by", f"{approval.requested_by}, {moment(approval.requested_at)}"),
                ("digest", approval.digest),
                ("signature", signature),
                ("ends", until(approval.stands_until or approval.expires_at)),
                (
                    "decided by",
                    f"{approval.decided_by}, {moment(approval.decided_at)}" if approval.decided_by else "",
                ),
                ("signed with", approval.signer),
                ("request", approval.approval_id),
            ]
        ),
        titled("What was asked for", quoted("\n".join(approval.summary), rest)),
        titled("Reason", quoted(approval.reason or "")) if approval.reason else "",
        titled("What it changes", quoted(approval.diff, rest)) if approval.diff else "",
    )


def decisions(picture: Picture, thing: str, *kinds: str) -> Text:
    """Who approved or refused what was asked for about a thing; why nobody was asked, where that is so."""
    if "approvals" in picture.refused:
        return titled("Approvals", styled("Not shown: ", "bold red") + outside(picture.refused["approvals"]))
    if "approvals" not in picture.read:
        return Text("")
    asked = [one for one in picture.approvals if one.thing == thing and one.kind in kinds]
    if not asked:
        sole = picture.whoami is not None and picture.whoami.sole
        why = ": this appliance belongs to one account, which needs nobody's." if sole else "."
        return titled("Approvals", styled(f"None was asked for{why}", "dim"))
    return titled("Approvals", Text("\n").join(map(in_a_line, asked)))


def in_a_line(approval: Approval) -> Text:
    """How it stands, who decided and when, and with which key they signed."""
    when = f" {moment(approval.decided_at)}" if approval.decided_at else ""
    by = f"decided by {approval.decided_by}{when}" if approval.decided_by else "decided by nobody yet"
    signed = f", signed with {approval.signer}" if approval.signer else ""
    asked = f"{approval.action}, asked by {approval.requested_by}, {by}{signed}"
    return state(approval.state) + outside(f" {asked} ({approval.approval_id})")


def ask_approval(console: ConsoleApp, approval: Approval) -> None:
    """Approve just this digest, after its name was typed. One that takes a signature is given with the command."""
    from cloister.api import ApprovalDecision

    if approval.signature_needed:
        command = f"cloister approval give {approval.approval_id} --sign"
        console.tell(
            "This approval is signed with your own key",
            stack(
                shown(approval),
                Text("It takes your SSH key, which this console never touches. In another shell:"),
                outside(f"  {command}", style="bold"),
            ),
            copied=command,
        )
        return
    decision = given(console, lambda: checked(ApprovalDecision, digest=approval.digest))
    if decision is None:
        return
    console.confirm(
        "Approve what somebody else asked for",
        shown(approval),
        approval.name,
        "approve just this",
        lambda: console.request(
            lambda client: client.approve(approval.approval_id, decision),
            lambda one: console.say(f"{one.approval_id} is approved; {one.requested_by} may go on."),
            doing="approve",
        ),
    )


def ask_refusal(console: ConsoleApp, approval: Approval) -> None:
    """Refuse it, with a reason that stands in the ledger."""
    from cloister.api import ApprovalDecision

    def go_on(values: dict[str, str]) -> None:
        decision = given(
            console, lambda: checked(ApprovalDecision, digest=approval.digest, reason=values["reason"])
        )
        if decision is not None:
            console.request(
                lambda client: client.disapprove(approval.approval_id, decision),
                lambda one: console.say(f"{one.approval_id} is refused."),
                doing="refuse",
            )

    console.ask_form(
        "Refuse what somebody else asked for",
        [Field("reason", "Reason", help="stands in the ledger", needed=True)],
        go_on,
        note=outside(f"{approval.action}: {approval.name}", 120, "bold"),
    )


def ask_withdrawal(console: ConsoleApp, approval: Approval) -> None:
    """Take a request back after its name was typed: what was approved of it counts no more."""
    console.confirm(
        "Withdraw a request",
        stack(Text("Asked for again, it takes another decision."), shown(approval)),
        approval.name,
        "withdraw it",
        lambda: console.request(
            lambda client: client.withdraw(approval.approval_id),
            lambda one: console.say(f"{one.approval_id} is withdrawn."),
            doing="withdraw",
        ),
    )
