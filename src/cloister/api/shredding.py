"""Erasure: what goes with a thing, what holds it back, and rows that mention a person.

Kept prompts and answers are erased through the ledger's entries: see `ledger`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints

from cloister.api.backups import Backup
from cloister.api.words import MAX_VERSION, Document, Name, ObjectKind


class ForgetConfig(Document):
    """A dataset's next version, without the rows that mention one of `identifiers`.

    Compared without regard to case, white space and Unicode form (NFKC, invisible characters left out);
    anywhere in a text, or with `whole_words` only where no letter or digit stands next to it.
    """

    identifiers: tuple[Annotated[str, StringConstraints(max_length=512)], ...] = Field(
        min_length=1, max_length=1000, repr=False
    )
    whole_words: bool = False


class ShredItem(BaseModel):
    """One object version that a shred destroys. Not `stored`: a job was cut off while it made it."""

    object_id: str
    version: int
    kind: ObjectKind
    name: str
    stored: bool
    sealed_bytes: int = 0


class ShredUse(BaseModel):
    """What uses something of a shred now: a deployment that is served, or a job that waits or runs."""

    id: str
    name: str
    state: str


class Hold(BaseModel):
    """A legal hold on a dataset: neither it nor what was derived from it is shredded meanwhile."""

    hold_id: str
    object_id: str
    name: str
    reason: str
    placed_at: datetime
    placed_by: str
    released_at: datetime | None = None
    released_by: str | None = None


class ShredPlan(BaseModel):
    """What shredding a thing takes with it, and what stands in its way.

    `kept_bodies` are prompts and answers of its models that policy kept.

    `backups` are those whose key archives could still open some of it; `final_after` is when the last
    of them ends by the retention of the settings, None where there is none.
    """

    kind: str
    object_id: str
    name: str
    versions: list[int]
    items: list[ShredItem]
    runs: dict[str, str]
    jobs: list[str]
    in_use: list[ShredUse]
    kept_bodies: int = 0
    holds: list[Hold]
    backups: list[Backup]
    final_after: datetime | None = None


class ShredRequest(Document):
    """`confirm` repeats the thing's name. `version` is one version of a dataset; None means all.

    With `take_down`, what uses it is stopped first; without, the shred is refused.
    """

    confirm: Name
    version: int | None = Field(default=None, ge=1, le=MAX_VERSION)
    take_down: bool = False


class Shred(BaseModel):
    """One shred. `asked`, then `intended` (entered; nothing opens it any more), then `done` and proved.

    `abandoned` where something stood in its way after all: nothing was destroyed.
    """

    shred_id: str
    state: Literal["asked", "intended", "done", "abandoned"]
    kind: str
    object_id: str
    name: str
    asked_at: datetime
    asked_by: str
    done_at: datetime | None = None
    objects: int = 0
    keys: int = 0
    sealed_bytes: int = 0
    final_after: datetime | None = None
    problem: str | None = None


class HoldRequest(Document):
    reason: str = Field(min_length=1, max_length=300)


class ForgetRequest(Document):
    """One person's request. The identifiers lie in this body and in the worker's memory only.

    `shred` says when the version with the rows goes, and with it what was derived from it: `later` keeps
    it until `dataset shred`; `now` needs the dataset's name in `confirm`.
    """

    config: ForgetConfig = Field(repr=False)
    shred: Literal["later", "now"] = "later"
    confirm: Name | None = None
    take_down: bool = False
