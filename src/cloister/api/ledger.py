"""The ledgers: entries and searches, heads and proofs, where they are exported to, kept bodies of requests.

Tells of entries and digests; a body itself never passes here.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from cloister.api.words import Document


class LedgerWitness(BaseModel):
    """When a head of one ledger last left this machine, and which head a witness last cosigned.

    `overdue_since` is set where neither happened within the period of the settings (where witnesses are
    named: where none cosigned). `command` is what to do next.
    """

    ledger: str
    left_at: datetime | None = None
    left_size: int | None = None
    cosigned_at: datetime | None = None
    cosigned_size: int | None = None
    cosigned_by: str | None = None
    overdue_since: datetime | None = None
    command: str


class LedgerStatus(BaseModel):
    """`signed` is how many entries the last signed tree head covers; `failure` says why it refuses.

    `witnessed`: no ledger of this home is overdue.
    """

    origin: str
    entries: int
    signed: int
    root: str | None = None
    witnessed: bool = False
    witnesses: list[LedgerWitness] = []
    failure: str | None = None


class SinkStatus(BaseModel):
    """Where the ledgers are exported to. `behind` counts entries not sent yet; `down_s` is None while it works."""

    name: str
    to: str
    required: bool
    behind: int
    sent: int
    down_s: float | None = None
    problem: str | None = None


class HeadsLeft(BaseModel):
    """Tree heads that have left this machine: signed entries by ledger, and how they left."""

    sizes: dict[Literal["control", "gateway"], Annotated[int, Field(ge=0)]]
    how: Literal["export", "carry", "syslog"]


class CosignedHead(BaseModel):
    """A tree head of one ledger with cosignatures, as a signed note."""

    ledger: Literal["control", "gateway"]
    note: str = Field(max_length=1 << 19)


class LogState(BaseModel):
    """What somebody who copies a ledger needs beside its tiles. Entries are base 64.

    `tail` are the entries made since the signed tree head, the oldest first; `cosigned` the tree heads that
    witnesses cosigned, by the id of the witness's key.
    """

    vkey: str
    checkpoint: str
    tail: list[str] = []
    cosigned: dict[str, str] = {}


class LedgerProof(BaseModel):
    """A tlog-proof (c2sp.org/tlog-proof)."""

    proof: str


class LedgerEntry(BaseModel):
    """One entry as kept: canonical JSON (RFC 8785) of this without `index`."""

    index: int
    time: str
    actor: str
    identified_by: str
    action: str
    objects: list[str] = []
    digests: dict[str, str] = {}
    policy: str | None = None
    decision: str | None = None
    reason: str | None = None
    details: dict[str, Any] = {}


LedgerName = Literal["control", "gateway"]


class LedgerMatches(BaseModel):
    """Entries that match a search, oldest first. `more` means that older ones match as well.

    `size` is how many entries the ledger had then; `indexed` says whether an index told where to look.
    """

    entries: list[LedgerEntry]
    more: bool
    size: int
    indexed: bool


class BodyRequest(Document):
    """The body that an entry commits to."""

    ledger: LedgerName
    index: int = Field(ge=0, lt=1 << 53)


class RevealConfig(Document):
    """How a worker opens one body. `key` is in base64, `commitment` in hex."""

    key: str = Field(repr=False)
    commitment: str
    origin: str


class RevealTicket(BaseModel):
    """Send the descriptor that the body is to be written to, role `output`, with `token` over the side socket."""

    reveal_id: str
    part: str
    token: str = Field(repr=False)
    side_socket: str


class RevealResult(BaseModel):
    """What was revealed: prompt or answer, how many bytes, and which entry says so."""

    part: str
    bytes: int
    entry: int


class ShredBodiesRequest(Document):
    """Exactly one of the two: one body, or all bodies of the days before `before`."""

    body: BodyRequest | None = None
    before: date | None = None

    @model_validator(mode="after")
    def _one(self) -> ShredBodiesRequest:
        if (self.body is None) == (self.before is None):
            raise ValueError("name one body, or a day")
        return self


class ShredBodiesResult(BaseModel):
    shredded: int
    left: int
    entry: int
