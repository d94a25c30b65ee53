"""Which shape a row has, told by the names of its fields; every other row of the source is held to it.

Knows the formats by their field names. It does not know files, lines or how a name was read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from cloister.api import ColumnMap
from cloister.datasets.alpaca import AlpacaShape
from cloister.datasets.columns import FieldsShape, recognised
from cloister.datasets.dialogues import ConversationShape, PairShape
from cloister.datasets.problems import Unreadable
from cloister.datasets.shapes import Shape
from cloister.datasets.turns import CHAT, CONVERSATIONS, SHAREGPT, first_turn, spelt
from cloister.errors import InvalidInput

MAP_FIELDS = "Map its fields with --input and --output or --label, with --messages, or with --text."
_COMPARED = (
    "this looks like preference data (`chosen`, `rejected`), from which nothing here is trained",
    "To learn what was chosen: --input prompt --output chosen, or --messages chosen where that is a list of turns.",
)
_JUDGED = (
    "this looks like preference data (`label` is true or false), from which nothing here is trained",
    "Keep the rows that are wanted, and name the field with --ignore label; a class is named with --label.",
)


def checked_columns(columns: ColumnMap | None) -> ColumnMap | None:
    """What was mapped.

    Raises:
        InvalidInput: it makes no row, or a name is empty or stands twice.
    """
    if columns is None:
        return None
    flat = (columns.input, columns.output, columns.label, columns.system, columns.context)
    if columns.messages is not None:
        if any(flat) or columns.text:
            raise InvalidInput(
                "a column of turns stands alone",
                remedy="Use --messages, or --input with --output or --label.",
            )
    elif columns.role or columns.content or columns.roles:
        raise InvalidInput("a column of turns must be given, too", remedy="Use --messages.")
    elif columns.text is not None:
        if any(flat):
            raise InvalidInput(
                "a text column stands alone", remedy="Use --text, or --input with --output or --label."
            )
    elif columns.input is not None:
        if (columns.output is None) == (columns.label is None):
            raise InvalidInput(
                "exactly one of an output column and a label column must be given",
                remedy="Use --output or --label.",
            )
    elif any(flat):
        raise InvalidInput("an input column must be given, too", remedy="Use --input.")
    names = [*flat, columns.text, columns.messages, *columns.groups]
    given = [name for name in names if name is not None]
    if "" in given or len(set(given)) < len(given):
        raise InvalidInput("each column must be given by a name of its own")
    return columns


def shape_of(
    value: Mapping[str, Any], columns: ColumnMap | None, system: str | None, *, closed: bool = True
) -> Shape | None:
    """The shape of rows like this one, None where it is of no known format.

    Args:
        closed: whether fields that the format does not know are faults.
    """
    given = columns or ColumnMap()
    groups, ignored = given.groups, given.ignore
    if given.messages:
        spelling = spelt(given, first_turn(value.get(given.messages)))
        return ConversationShape(spelling, system=system, groups=groups, ignored=ignored, closed=False)
    if given.input or given.text:
        plan = recognised((), columns, system)
        assert plan is not None
        return FieldsShape(plan, closed=False)
    refuse_preferences(value, given, judged=isinstance(value.get("label"), bool))
    if "messages" in value or "conversations" in value:
        spelling = CHAT if "messages" in value else SHAREGPT
        if spelling is SHAREGPT and "role" in first_turn(value["conversations"]):
            spelling = CONVERSATIONS
        return ConversationShape(
            spelling,
            labelled="label" in value and "label" not in (*groups, *ignored) and closed,
            system=system,
            groups=groups,
            ignored=ignored,
            closed=closed,
        )
    if "prompt" in value or "completion" in value:
        if isinstance(value.get("prompt"), list) or isinstance(value.get("completion"), list):
            return PairShape(system=system, groups=groups, ignored=ignored, closed=closed)
    elif "instruction" in value and "output" in value:
        return AlpacaShape(system=system, groups=groups, ignored=ignored)
    names = set(value) - set(ignored)
    plan = recognised(names, columns, system, closed=closed and "label" not in groups)
    return FieldsShape(plan, closed=closed, ignored=ignored) if plan else None


def refuse_preferences(names: Collection[str], given: ColumnMap, *, judged: bool = False) -> None:
    """For rows with these fields, of which none was mapped: an unwanted answer is not to be learnt like a wanted one.

    Args:
        judged: whether the field `label` is true or false.

    Raises:
        Unreadable: they are about preferences, and the fields that say so are not to be ignored.
    """
    left = set(names) - {*given.ignore, *given.groups}
    if {"chosen", "rejected"} <= left:
        raise Unreadable(_COMPARED[0], remedy=_COMPARED[1])
    if judged and "label" in left and {"completion", "messages", "conversations"} & set(names):
        raise Unreadable(_JUDGED[0], remedy=_JUDGED[1])


def unknown_shape(names: object) -> str:
    """What to say of rows with these fields, which are of no known format."""
    held = set(names) if isinstance(names, dict | set | list | tuple) else set()
    if {"chosen", "rejected"} & held:
        return _COMPARED[0]
    if "instruction" in held:
        return "this looks like Alpaca, but rows have no `output`"
    if "text" in held:
        return "rows have `text` and other fields, which may be plain text or a question"
    return (
        "rows are of no known format: `messages`, `conversations`, `prompt` and `completion`, `instruction` and "
        "`output`, or `text` alone"
    )
