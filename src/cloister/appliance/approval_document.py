"""What an approver's signature signs: all that they have to know, one thing a line. It decides nothing."""

from __future__ import annotations

from cloister.appliance.state import ApprovalRow

_SET = "policies: sha256 "


def document_of(row: ApprovalRow, *, appliance: str, policies: str) -> str:
    """Of a request that was asked for under the policy set of that digest, on the appliance of that identity."""
    lines = [
        "Cloister approval, version 1",
        f"appliance: {appliance}",
        f"approval: {row.approval_id}",
        f"action: {row.action}",
        f"name: {row.name}",
        f"classification: {row.classification}",
        f"asked by: {row.requested_by} (uid {row.requester})",
        f"asked at: {row.requested_at:%Y-%m-%dT%H:%M:%SZ}",
        f"expires at: {row.expires_at:%Y-%m-%dT%H:%M:%SZ}",
        f"{_SET}{policies}",
        f"digest: sha256 {row.digest}",
        *(f"- {line}" for line in row.summary),
        "Signing this with namespace cloister-approval approves it.",
    ]
    return "".join(line + "\n" for line in lines)


def set_of(row: ApprovalRow) -> str:
    """The digest of the policy set that was in force when it was asked for."""
    lines = row.document.splitlines()
    return next((line.removeprefix(_SET) for line in lines if line.startswith(_SET)), "")
