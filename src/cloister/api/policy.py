"""Who may do what: questions, the table, policy sets; and who the one that asks is.

What waits for somebody else is in `approvals`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints

from cloister.api.models import ExportForm
from cloister.api.words import Document


class WhoAmI(BaseModel):
    """Who the authority takes a connection for. `actions` are those that it may do, `policies` the set's digest.

    `sole` says that the appliance has no roles and belongs to this one account.
    """

    account: str
    uid: int
    roles: list[str]
    groups: list[str] = []
    sole: bool = False
    actions: list[str] = []
    policies: str = ""


class PolicyQuestion(Document):
    """May `account` (default: who asks) do `action`? `kind` where the action has more than one.

    `thing` names what it would be done to; without, the answer is about the strictest of its kind. `form` is how,
    where the action has forms; without, the strictest of them.
    """

    action: str = Field(max_length=64)
    kind: str | None = Field(default=None, max_length=64)
    thing: str | None = Field(default=None, max_length=64)
    form: ExportForm | None = None
    account: str | None = Field(default=None, max_length=64)


class PolicyRule(BaseModel):
    """One policy of the set in force: its id, its file, and its Cedar text as it stands there."""

    policy_id: str
    file: str
    source: str


class PolicyAnswer(BaseModel):
    """What the policies say. `policies` decided; `roles_that_may` are those of which one is enough. `forbids` are
    those of the deciding ones that forbid it; where nothing permits it, `permits` are those that would permit it to
    these roles if what they say of the thing held. `attributes` is what the policies know of it, in words.

    `demand` is what it takes besides the role: `yes` (nothing), `approval`, `signed approval`, or `no`.
    """

    account: str
    roles: list[str]
    action: str
    kind: str
    allowed: bool
    policies: list[str]
    problem: str | None
    roles_that_may: list[str]
    demand: str = "no"
    thing: str | None = None
    classification: str | None = None
    form: str | None = None
    forbids: list[PolicyRule] = []
    permits: list[PolicyRule] = []
    attributes: dict[str, str] = {}


class PolicyCell(BaseModel):
    """One cell of the table: what one role alone gets. `demand` and `form` are as in `PolicyAnswer`; `situation` is
    what else the policies may look at: whose request an approval is of, what a model's evaluation showed."""

    action: str
    kind: str
    classification: str
    role: str
    demand: str
    policies: list[str]
    form: str | None = None
    situation: str | None = None


class PolicyTable(BaseModel):
    """Who may do what, by the set in force. `digest` is its SHA-256, as in every entry of the ledger."""

    digest: str
    cells: list[PolicyCell]


PolicyText = Annotated[str, StringConstraints(max_length=1 << 18)]


class PolicyProposal(Document):
    """Another policy set: the texts of its schema and `*.cedar` files by name, and of its tests."""

    files: dict[str, PolicyText] = Field(min_length=1, max_length=64)
    tests: dict[str, PolicyText] = Field(default={}, max_length=64)


class PolicySetInfo(BaseModel):
    """The set in force. `origin`: shipped, folder, settings (accepted by digest), or approved."""

    digest: str
    origin: str
    since: datetime | None = None
    approval: str | None = None
    files: dict[str, str]
