"""Backups: how one is asked for, and what is known of those that were made.

Bringing one back is done without the authority, and has no words here.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints

from cloister.api.words import Document


class Backup(BaseModel):
    """One backup that was made. Its key archive opens what existed then, until `keys_until` at most.

    `packs` objects are in it, `copied` of them were not in the target before. `where` is what whoever
    asked called the target.
    """

    backup_id: str
    made_at: datetime
    made_by: str
    where: str
    keys_until: datetime
    discarded_at: datetime | None = None
    packs: int
    copied: int
    copied_bytes: int
    objects_sha256: str
    keys_sha256: str
    ledger_entries: int


class BackupRequest(Document):
    """Make a backup into folders whose descriptors follow: `objects`, and `keys` where it is another.

    The key archive is encrypted to `recipients` (age) or under `passphrase`. Objects that the target has
    are not copied again; all are read back, or with `quick` only the new ones.
    """

    where: str = Field(max_length=1024)
    recipients: tuple[Annotated[str, StringConstraints(max_length=4096)], ...] = Field(
        default=(), max_length=16
    )
    passphrase: str | None = Field(default=None, min_length=1, max_length=1024, repr=False)
    quick: bool = False
