"""From options to documents: pydantic's complaints as one error that names the options."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TypeVar, get_args

from pydantic import BaseModel, ValidationError

from cloister.errors import InvalidInput
from cloister.shown import visible

Kind = TypeVar("Kind", bound=BaseModel)
MOST = 8
"""So many complaints are told at once."""


def validated(kind: type[Kind], /, **values: object) -> Kind:
    """An instance of `kind`. Errors: InvalidInput, naming each field and its rule, no values."""
    try:
        return kind(**values)
    except ValidationError as error:
        items = error.errors(include_input=False, include_url=False)
        problems = "; ".join(_told(kind, item["loc"], item["type"], item["msg"]) for item in items[:MOST])
        if len(items) > MOST:
            problems += f"; and {len(items) - MOST} more"
        raise InvalidInput(problems) from None


def _told(kind: type[BaseModel], place: tuple[int | str, ...], rule: str, message: str) -> str:
    """A field and its rule; of one that there is not, what may have been meant."""
    name = visible(".".join(map(str, place)), limit=80)
    if rule != "extra_forbidden":
        return f"{name}: {message}"
    known = _names(kind, place[:-1])
    near = get_close_matches(str(place[-1]), known, n=1)
    return f"{name}: there is no such setting" + (f"; is `{near[0]}` meant?" if near else "")


def _names(kind: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """The fields of the document at that place within `kind`; none where it has no document there."""
    for part in place:
        field = kind.model_fields.get(str(part))
        found = (
            [one for one in (field.annotation, *get_args(field.annotation)) if _is_document(one)]
            if field
            else []
        )
        if not found:
            return []
        kind = found[0]
    return list(kind.model_fields)


def _is_document(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, BaseModel)
