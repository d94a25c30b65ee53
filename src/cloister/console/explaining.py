"""What `?` says of the field that has the focus: what goes into it, and what the keys do there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from cloister.console.paint import facts, outside, stack

if TYPE_CHECKING:
    from cloister.console.screens.dialogs import Field

KEYS = (
    ("Tab, ↓", "the next field, and what can be scrolled"),
    ("Enter", "the next field; in the last one it is done; a list of choices opens"),
    ("PgDn, PgUp", "the last field, the first"),
    ("?", "this page, where nothing is typed yet; else a question mark"),
    ("Esc", "leave: nothing happens"),
)
CONFIRMED = (
    ("Its name", "typed as it stands in the line above, and Enter: it is done, and recorded"),
    ("Esc", "leave: nothing is changed"),
)


def about_field(field: Field | None, beside: str) -> Text:
    """A field, or else what stands `beside` the fields."""
    if field is None:
        return stack(outside(beside), facts(KEYS))
    kind = "" if field.number is None else "a whole number" if field.number is int else "a number"
    return stack(
        outside(field.label, 80, "bold"),
        outside(field.help),
        facts(
            [
                ("goes here", kind),
                ("one of", ", ".join(field.choices)),
                ("needed", "yes" if field.needed else ""),
                ("hidden", "as you type, and never kept" if field.secret else ""),
            ]
        ),
        facts(KEYS),
    )


def about_confirming(doing: str) -> Text:
    return stack(outside(f"Above stands what is touched. Enter would {doing}."), facts(CONFIRMED))
