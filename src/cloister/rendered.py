"""A row as a run would learn it, as text for a person: what is learnt told apart by marks and by weight.

The marks are ours alone: where the row's own text has one, it is shown as an escape. Knows what a worker writes of a
rendered row, and no terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cloister.shown import visible

if TYPE_CHECKING:
    from rich.text import Text

BEGIN, END = "⟦", "⟧"
"""Around what is learnt."""
_ESCAPES = str.maketrans({mark: mark.encode("unicode_escape").decode() for mark in (BEGIN, END)})
LEARNT = "bold green"


def marked(spans: Sequence[dict[str, Any]]) -> Text:
    """The stretches as one text, safe to look at; what is learnt between `⟦` and `⟧`, and styled."""
    from rich.text import Text

    text = Text()
    for span in spans:
        shown = visible(span["text"], lines=True).translate(_ESCAPES)
        text.append(
            f"{BEGIN}{shown}{END}" if span["supervised"] else shown, LEARNT if span["supervised"] else ""
        )
    return text


def facts_of(found: dict[str, Any]) -> str:
    """Which row it is, how long, and how it was rendered, in a line."""
    facts = [f"row {found['row']}", found["side"], f"{found['tokens']} tokens, {found['supervised']} learnt"]
    if found["template"] is not None:
        facts += [f"template {found['template']}", f"loss on {found['loss_on']}"]
    return visible("── " + " · ".join(facts))


def warnings_of(found: dict[str, Any]) -> list[str]:
    """What a run of that length would make of it."""
    if not found["fits"]:
        return [f"It is longer than {found['max_length']} tokens: a run of that length refuses it."]
    if found["windows"] > 1:
        return [f"It is read in {found['windows']} windows of at most {found['max_length']} tokens."]
    return []
