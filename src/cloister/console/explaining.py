"""What `?` and ctrl+g say where something is typed: what goes there, and what the keys do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from cloister.console.paint import facts, outside, stack, styled

if TYPE_CHECKING:
    from cloister.console.actions import Action
    from cloister.console.picture import Picture
    from cloister.console.screens.dialogs import Field

ASKED = ("?", "this page, where nothing is typed yet; else a question mark")
AT_ANY_TIME = ("ctrl+g", "this page, also where something is typed")

KEYS = (
    ("Tab, ↓", "the next field, and what can be scrolled"),
    ("Enter", "the next field; in the last one it is done; a list of choices opens"),
    ("PgDn, PgUp", "the last field, the first"),
    ASKED,
    AT_ANY_TIME,
    ("Esc", "leave: nothing happens"),
)
CONFIRMED = (
    ("↑↓ PgUp PgDn", "scroll what is touched"),
    ("Its name", "typed as it stands in the line above, and Enter: it is done, and recorded"),
    AT_ANY_TIME,
    ("Esc", "leave: nothing is changed"),
)
CHOSEN = (
    ("Letters", "of its id, its name or its help, in any order: what has all of them stays"),
    ("↑, ↓", "another one"),
    ("Enter", "do it; what belongs to another screen leads there first"),
    ASKED,
    AT_ANY_TIME,
    ("Esc", "leave: nothing happens"),
)
CHATTED = (
    ("Enter", "ask; with nothing typed, begin a new conversation"),
    ("↑↓ PgUp PgDn", "scroll"),
    ASKED,
    AT_ANY_TIME,
    ("Esc", "end the chat: its key is revoked, its words are forgotten"),
)
CHAT = (
    "What you ask goes through the gateway as any client's request, with all that was said here before. Who asked, and "
    "when, is on its ledger; the words are in this pane alone, and where the settings keep them "
    "(`ledger.bodies`). Below an answer stand its tokens, how long it took, and the id by which 7, then g, finds it."
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


def about_command(action: Action | None, picture: Picture) -> Text:
    """The command under the cursor: its key, where it counts, what it asks for first."""
    if action is None:
        return stack(Text("No command has all of these letters."), facts(CHOSEN))
    needs = "the console armed (w), then its name typed" if action.destroys else "the console armed (w)"
    return stack(
        styled(f"{action.label}  ", "bold").append(action.id, "dim"),
        Text(action.help),
        facts(
            [
                ("its key", action.shown_key),
                ("on", ", ".join(action.scopes)),
                ("needs", needs if action.changes else ""),
                ("denied", "" if picture.may(action.policy) else "to your roles: Enter says why"),
            ]
        ),
        facts(CHOSEN),
    )


def about_chatting(names: tuple[str, ...]) -> Text:
    return stack(
        outside(", ".join(names), 120, "bold"),
        Text("The same goes to both, one answer beside the other.") if len(names) > 1 else Text(""),
        Text(CHAT),
        facts(CHATTED),
    )
