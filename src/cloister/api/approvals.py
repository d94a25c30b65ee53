"""What nobody may do alone: the thing that waits, frozen under its digest, and the decision on it.

Knows no policy: what takes an approval is decided elsewhere.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints

from cloister.api.words import Document


class Approval(BaseModel):
    """Something that was asked for and takes somebody else's approval, frozen under `digest`.

    `summary` says what it is, for a person; `document` is what a signature signs, to the byte. `diff` is how
    proposed policies differ from those in force, where one approval is asked for. `thing` is what it is done
    to. An approval of a deployment may be used again while it stands, every other once; `kept` stands, after the
    policy set has changed, for the deployments that are served under it and for nothing else.
    """

    approval_id: str
    state: Literal["pending", "approved", "refused", "withdrawn", "void", "expired", "used", "kept"]
    action: str
    kind: str
    thing: str
    name: str
    classification: str
    digest: str
    summary: list[str]
    signature_needed: bool
    requested_by: str
    requested_at: datetime
    expires_at: datetime
    document: str
    decided_by: str | None = None
    decided_at: datetime | None = None
    stands_until: datetime | None = None
    reason: str | None = None
    signature: str | None = None
    signer: str | None = None
    used_at: datetime | None = None
    diff: str | None = None


APPROVAL_NAMESPACE = "cloister-approval"
"""The namespace of SSH signatures on approvals: one that was made for anything else does not count."""


class ApprovalDecision(Document):
    """`digest` repeats that of what was shown. `signature` is an armored SSH signature over the document."""

    digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    reason: str | None = Field(default=None, min_length=1, max_length=300)
    signature: str | None = Field(default=None, max_length=16_384)
