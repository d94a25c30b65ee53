"""Every key of the settings, its default and its meaning, as a table: `python -m cloister.policy.settings_table`.

The handbook holds it, and a test compares. It reads the models of `settings` and knows no appliance.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel

from cloister.policy.settings import Settings


def rows(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Key, default (as YAML would have it; empty where it has to be given) and meaning, in their order."""
    for name, field in model.model_fields.items():
        section = _section(field.annotation)
        if section is not None:
            several = "[]" if "tuple" in str(field.annotation) else ""
            yield from rows(section, f"{prefix}{name}{several}.")
        else:
            default = "" if field.is_required() else json.dumps(_plain(field.default))
            yield prefix + name, default.strip('"'), field.description or ""


def markdown() -> str:
    """The table as the handbook has it."""
    lines = [
        f"| `{key}` | {f'`{default}`' if default else 'none: it is needed'} | {meaning} |"
        for key, default, meaning in rows()
    ]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *lines]) + "\n"


def _section(annotation: Any) -> type[BaseModel] | None:
    """The model that a key's values are of, also behind `| None` and in a tuple."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_section(part) for part in get_args(annotation))
    return next((part for part in found if part is not None), None)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return list(value) if isinstance(value, tuple) else value


if __name__ == "__main__":
    sys.stdout.write(markdown())
