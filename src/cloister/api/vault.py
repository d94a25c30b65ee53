"""Unlocking, slots, keys and checks of the vault.

Secrets lie in request bodies on the Unix socket and in memory, and are left out of every `repr`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from cloister.api.words import Document, ObjectKind


class Passphrase(Document):
    """Lies in the request body of `init` and `unlock`, over the Unix socket only."""

    passphrase: str = Field(min_length=1, max_length=1024, repr=False)


class SlotSecret(Document):
    """What opens an unlock slot: of the fields, just those of its `kind`. `slot` names one slot alone.

    `key` is a credential's bytes in base64; `shares` are SLIP-39 mnemonics, as many as are at hand.
    """

    kind: Literal["passphrase", "credential", "shares", "token"]
    slot: int | None = Field(default=None, ge=1)
    passphrase: str | None = Field(default=None, min_length=1, max_length=1024, repr=False)
    key: str | None = Field(default=None, max_length=8192, repr=False)
    shares: tuple[Annotated[str, Field(max_length=1024)], ...] = Field(default=(), max_length=16, repr=False)
    pin: str | None = Field(default=None, min_length=1, max_length=255, repr=False)


class NewSlot(Document):
    """An unlock slot to make. `proof` opens another slot that exists.

    For `passphrase`: `passphrase`, and `memory_mib`, `iterations` and `lanes` of Argon2id. For
    `credential`: `key` (base64) and the credential's `name`. For `shares`: `threshold` of `count`. For
    `token`: the driver's path `module`, the label `token`, `key_id` (hex) and the `pin`.
    """

    kind: Literal["passphrase", "credential", "shares", "token"]
    proof: SlotSecret
    passphrase: str | None = Field(default=None, min_length=1, max_length=1024, repr=False)
    memory_mib: int = Field(default=256, ge=8, le=4096)
    iterations: int = Field(default=3, ge=1, le=64)
    lanes: int = Field(default=4, ge=1, le=16)
    key: str | None = Field(default=None, max_length=8192, repr=False)
    name: str = Field(default="cloister-unlock", max_length=64)
    threshold: int = Field(default=2, ge=2, le=16)
    count: int = Field(default=3, ge=2, le=16)
    module: str | None = Field(default=None, max_length=4096)
    token: str | None = Field(default=None, max_length=32)
    key_id: str | None = Field(default=None, max_length=128)
    pin: str | None = Field(default=None, min_length=1, max_length=255, repr=False)


class AddedSlot(BaseModel):
    """A slot that was made; `shares` are shown this one time."""

    slot: int
    kind: str
    shares: list[str] = Field(default=[], repr=False)


class SlotView(BaseModel):
    """An unlock slot. `state` is `good` or `damaged`; `detail` says what it asks for, in a few words."""

    slot: int
    kind: str
    state: Literal["good", "damaged"]
    detail: str


class Opening(BaseModel):
    """How far an unlocking is. With shares it may take several people: `given` of `needed` so far."""

    open: bool
    slot: int | None = None
    given: int = 0
    needed: int = 0


class KekRotated(BaseModel):
    """`version` is in use now; the `destroyed` ones are gone. `resumed`: an earlier one was completed."""

    version: int
    rewrapped: int
    destroyed: list[int]
    resumed: bool


class RootRotated(BaseModel):
    """The slot that remains, those that ended, and the rotation of the KEK that came with it."""

    kept: int
    ended: list[int]
    kek: KekRotated


class RotateConfig(Document):
    """One object version to re-encrypt under a fresh data key, as its next version."""

    kind: ObjectKind
    version: int = Field(ge=2)


class CheckLine(BaseModel):
    """One line of a check of the vault: how far it is, what it found wrong, or at the end the whole."""

    event: Literal["progress", "problem", "result"]
    done: int = 0
    total: int = 0
    where: str | None = None
    problem: str | None = None
    objects: int = 0
    keys: int = 0
    bytes: int = 0
    problems: int = 0


class LockRequest(Document):
    """`refuse` where work runs, `drain` it first, or `cut` it off (runs resume later)."""

    mode: Literal["refuse", "drain", "cut"] = "refuse"
