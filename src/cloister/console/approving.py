"""Approvals: what was asked for, as the authority froze it; approve by its name, refuse with a reason.

The dialog's own words stand above; what somebody asked for is outside text in every line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from cloister.console.asking import checked, given
from cloister.console.paint import facts, outside, stack, state
from cloister.console.screens.dialogs import Field
from cloister.shown import moment, visible

if TYPE_CHECKING:
    from cloister.api import Approval
    from cloister.console.app import ConsoleApp


def shown(approval: Approval) -> Text:
    """The request, its digest, and who decided."""
    diff = Text(visible(approval.diff, lines=True, limit=20_000)) if approval.diff else Text("")
    signature = "the approver's, with their own SSH key" if approval.signature_needed else "none needed"
    return stack(
        state(approval.state) + outside(f"  {approval.action}"),
        facts(
            [
                ("name", approval.name),
                ("class", approval.classification),
                ("asked by", f"{approval.requested_by}, {moment(approval.requested_at)}"),
                ("digest", approval.digest),
                ("signature", signature),
                ("ends", moment(approval.stands_until or approval.expires_at)),
                (
                    "decided by",
                    f"{approval.decided_by}, {moment(approval.decided_at)}" if approval.decided_by else "",
                ),
                ("reason", approval.reason),
                ("signed with", approval.signer),
                ("request", approval.approval_id),
            ]
        ),
        *(Text("- ") + outside(line) for line in approval.summary),
        diff,
    )


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
                Text(f"  {command}", "bold"),
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
