"""The help beside each screen: a page of words from `<screen>.txt`, then its keys from the registry."""

from __future__ import annotations

from importlib.resources import files

from rich.text import Text

from cloister.console.actions import in_scope
from cloister.console.paint import stack
from cloister.console.picture import Picture


def page(scope: str) -> str:
    """What a screen is for and shows, in words."""
    text = files(__package__).joinpath(f"{scope}.txt").read_text(encoding="utf-8")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def help_for(scope: str, picture: Picture) -> Text:
    """The page of a screen and its keys; what the policies deny to this account says so."""
    keys = Text()
    for action in in_scope(scope):
        allowed = picture.may(action.policy)
        keys.append(f"{action.shown_key:>6}  ", "bold" if allowed else "dim")
        keys.append(f"{action.label:<14} ", "" if allowed else "dim")
        keys.append(f"{action.help}", "dim")
        if action.changes:
            keys.append(" (w first, then its name)" if action.destroys else " (w first)")
        if not allowed:
            keys.append(" × denied to your roles", "red")
        keys.append("\n")
    return stack(Text(page(scope).rstrip()), keys)
