"""From options to documents: pydantic's complaints as one error that names the options."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from cloister.errors import InvalidInput

Kind = TypeVar("Kind", bound=BaseModel)


def validated(kind: type[Kind], /, **values: object) -> Kind:
    """An instance of `kind`. Errors: InvalidInput, naming each field and its rule, no values."""
    try:
        return kind(**values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}"
            for item in error.errors(include_input=False, include_url=False)
        )
        raise InvalidInput(problems) from None
