"""What every conversation shares: names and ids of things, the base of all documents, an error's form.

No document ever holds a row, a prompt or an answer. Knows no other module of this package.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

_ID = r"^[a-z]{2}-[0-9a-hjkmnp-tv-z]{12}$"


def _no_id(name: str) -> str:
    """A name that looked like an id could stand for another thing than it says."""
    if re.match(_ID, name):
        raise ValueError("a name does not have the form of an id")
    return name


Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$"), AfterValidator(_no_id)]
"""What people call a thing: lower-case letters, digits, `.`, `_`, `-`; at most 63 characters, and no id."""

ObjectId = Annotated[str, StringConstraints(pattern=_ID)]
"""Two letters for the kind, a dash, twelve characters of Crockford's base 32."""


LARGEST = 2**53 - 1
"""Of integers that every reader of JSON keeps apart."""

Seed = Annotated[int, Field(ge=-LARGEST, le=LARGEST)]
"""Of random choices: what every generator takes."""


class Document(BaseModel):
    """Base of all: unknown fields are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ObjectKind(StrEnum):
    DATASET = "dataset"
    BASE = "base"
    ADAPTER = "adapter"
    EVALUATION = "evaluation"
    MODEL = "model"


MAX_VERSION = 999_999_999
"""Of an object: what the name of its folder has room for."""

ID_PREFIX: dict[str, str] = {
    ObjectKind.DATASET: "ds",
    ObjectKind.BASE: "bm",
    ObjectKind.ADAPTER: "ad",
    ObjectKind.EVALUATION: "ev",
    ObjectKind.MODEL: "mm",
    "run": "rn",
    "job": "jb",
    "deployment": "dp",
    "client": "cl",
    "shred": "sh",
    "hold": "lh",
    "backup": "bk",
    "approval": "ap",
}

ONCE_PATHS = (
    r"/v1/(runs|models|deployments|policy|(runs|jobs|deployments|clients|datasets|models|approvals|backups|alerts)/"
    r"[^/]+/(resume|retry|pause|cancel|raise|lower|stop|revoke|hold|release|classify|declassify|shred|give|refuse"
    r"|withdraw|discard|acknowledge))"
)
"""A pattern of the paths whose POST takes an `Idempotency-Key`: sent again with the same key, it is done once.
Neither these requests nor their answers hold a secret or a row."""


class Problem(BaseModel):
    """RFC 9457 problem details. `code` names the class in `cloister.errors`."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
    where: str | None = None
    remedy: str | None = None
    values: dict[str, Any] = {}


Classification = Literal["public", "internal", "confidential", "restricted"]
