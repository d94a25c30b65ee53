"""What is done about personal data in rows on their way: counted, exchanged, or refused at the end.

Knows what the authority asks for; finding it is `datasets`'. It loads the recognisers only where they are asked for.
"""

from __future__ import annotations

import base64
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from cloister.api import PersonalType
from cloister.errors import InvalidInput

if TYPE_CHECKING:
    from cloister.datasets.personal.replacing import RowRewriter

BECAME = {"redact": "redacted", "replace": "replaced by made-up values"}
"""What became of personal data that was found, as a dataset's details say it."""


def rewriter_for(
    how: str, types: Collection[PersonalType] = (), secret: str | None = None, *, where: str
) -> RowRewriter:
    """What exchanges personal data of these types, of all where none is named; only counts where `how` is neither
    `redact` nor `replace`. `secret` is the key of made-up values, in base64.

    Raises InvalidInput where there is none.
    """
    from cloister.datasets.personal.replacing import Pseudonyms, RowRewriter, placeholder
    from cloister.datasets.personal.types import TYPES

    if how == "redact":
        return RowRewriter(placeholder, types or TYPES)
    if how != "replace":
        return RowRewriter(None, types or TYPES)
    if secret is None:
        raise InvalidInput("no key for made-up values came", where=where)
    return RowRewriter(Pseudonyms(base64.b64decode(secret)), types or TYPES)


def counted(rewriter: RowRewriter, rows: int) -> dict[str, Any]:
    """What was found in so many rows, as the authority keeps it."""
    return {"looked_at": rows, "rows": rewriter.rows, "found": rewriter.counts()}


def refuse_found(rewriter: RowRewriter, where: str) -> None:
    """Errors: InvalidInput where anything was found; by type and by where it stands, never the text."""
    if rewriter.rows:
        said = ", ".join(f"{type} {sum(fields.values())}" for type, fields in rewriter.counts().items())
        raise InvalidInput(
            f"{rewriter.rows} rows hold personal data ({said}), which the settings refuse for data of this class; "
            "nothing was imported",
            where=where,
            remedy="Take it out, or import it as another class where that is right.",
        )
