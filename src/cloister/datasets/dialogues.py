"""Rows that are conversations: chat `messages`, ShareGPT `conversations`, and prompts and completions of turns.

Knows what may stand beside the turns; how these are spelt is `turns`, the rules that hold for every row are `validate`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, islice
from typing import Any, Literal

import msgspec

from cloister.datasets.problems import Fault
from cloister.datasets.rows import Message, Row
from cloister.datasets.shapes import (
    AtOnce,
    groups_of,
    key_pattern,
    object_faults,
    optional_text_of,
    rows_of_turns,
    text_of,
)
from cloister.datasets.toolcalls import tools_text
from cloister.datasets.turns import CHAT, CHAT_ROLES, Spelling, turns_of
from cloister.datasets.validate import are_groups, are_texts, in_order, row_faults


class ConversationShape:
    """An object that lists its turns; `tools` (or `functions`), a `system` text (ShareGPT), `label` and groups may
    stand beside.

    Args:
        spelling: of the turns.
        labelled: whether `label` is there; it repeats the last answer.
        system: the system turn of every row that brings none.
    """

    def __init__(
        self,
        spelling: Spelling,
        *,
        labelled: bool = False,
        system: str | None = None,
        groups: Sequence[str] = (),
        ignored: Sequence[str] = (),
        closed: bool = True,
    ) -> None:
        self.name = spelling.name
        self.spelling = spelling
        self._labelled = labelled
        self._system = Message("system", system) if system else None
        self.groups = tuple(groups)
        self._known = (spelling.turns, *(("label",) if labelled else ()), *self.groups)
        self._optional = ("tools", "system") if spelling.calls else ("tools", "functions")
        self._ignored = tuple(n for n in ignored if n not in (*self._known, *self._optional))
        self._closed = closed
        self._own = spelling.roles is CHAT_ROLES
        self._spelt_alike = {
            r for r, meant in spelling.roles.items() if meant != "tool" and r != spelling.calls
        }
        self.decode: Callable[[bytes], Any] = msgspec.json.Decoder(self._wire()).decode
        # `at_once` counts neither tools nor their calls: lines with them go the exact way.
        names = (spelling.role, spelling.content, "tool_calls", *self._optional)
        whole = closed and not self._ignored
        self.keys: re.Pattern[bytes] | None = None if whole else key_pattern([*self._known, *names])

    def _wire(self) -> type:
        """The type of a usual line. OpenAI's turns are decoded straight into ours; tools are then doubtful."""
        spelling = self.spelling
        turn: Any = Message
        if not self._own:
            roles = Literal[tuple(sorted(self._spelt_alike))]  # type: ignore[valid-type]
            turn = msgspec.defstruct(
                "Turn",
                [("role", roles), ("content", str)],
                rename={"role": spelling.role, "content": spelling.content},
                frozen=True,
                gc=False,
                forbid_unknown_fields=True,
            )
        fields: list[Any] = [("turns", tuple[turn, ...])]
        names = {"turns": spelling.turns}
        if self._labelled:
            fields.append(("label", str))
        for number, name in enumerate(self.groups):
            fields.append((f"g{number}", str))
            names[f"g{number}"] = name
        for number, name in enumerate(self._ignored):
            fields.append((f"i{number}", msgspec.Raw, msgspec.Raw(b"0")))
            names[f"i{number}"] = name
        return msgspec.defstruct(
            "Line",
            fields,
            rename=names,
            frozen=True,
            gc=False,
            kw_only=True,
            forbid_unknown_fields=self._closed,
        )

    @property
    def quick(self) -> ConversationShape:
        return self

    def at_once(self, items: Sequence[Any]) -> AtOnce | None:
        rows: list[tuple[Any, ...]] = [item.turns for item in items]
        turns = list(chain.from_iterable(rows))
        contents = [turn.content for turn in turns]
        roles = [turn.role for turn in turns]
        labels = [item.label for item in items] if self._labelled else []
        held = [[getattr(item, f"g{number}") for item in items] for number in range(len(self.groups))]
        made = self.rows(
            roles, contents, list(map(len, rows)), labels, held, messages=rows if self._own else None
        )
        if made is None:
            return None
        names = len(items) * len(self._known) + 2 * len(turns)
        texts = list(chain(contents, labels, *held))
        return AtOnce(made, names=names, strings=names + len(turns) + len(texts), texts=texts)

    def rows(
        self,
        roles: Sequence[str],
        contents: Sequence[str],
        lengths: Sequence[int],
        labels: Sequence[str],
        groups: Sequence[Sequence[str]],
        messages: Sequence[tuple[Message, ...]] | None = None,
    ) -> list[Row] | None:
        """The rows of turns one behind another, whose texts hold no NUL character; None where a rule may be broken.

        Args:
            roles: as they are spelt.
            lengths: how many turns each row has.
            groups: a column for each group, empty where a row has none.
            messages: the same turns as `roles` and `contents`, where they have been made already.
        """
        if not self._spelt_alike.issuperset(roles):
            return None
        meant = list(map(self.spelling.roles.__getitem__, roles))
        if not in_order(meant, lengths) or not are_texts(contents) or not all(map(are_groups, groups)):
            return None
        if messages is None:
            each = map(Message, meant, contents)
            messages = [tuple(islice(each, length)) for length in lengths]
        if labels and labels != [row[-1].content for row in messages]:
            return None
        if self._system:  # an even number of turns begins with the user's
            messages = [row if len(row) % 2 else (self._system, *row) for row in messages]
        grouped = [self._grouped(values) for values in zip(*groups, strict=True)]
        return rows_of_turns(messages, labels, grouped)

    def _grouped(self, values: Sequence[str]) -> dict[str, str]:
        return {name: value for name, value in zip(self.groups, values, strict=True) if value}

    def _led(self, row: Row) -> Row:
        """With the system turn that every row without one gets."""
        if self._system and row.messages and row.messages[0].role != "system":
            return msgspec.structs.replace(row, messages=(self._system, *row.messages))
        return row

    def exact(self, value: Any) -> tuple[Row | None, list[Fault]]:
        known = self._known
        faults = object_faults(
            value, "", known, optional=self._optional, ignored=self._ignored, closed=self._closed
        )
        if not isinstance(value, dict):
            return None, faults
        label = text_of(value, "label", faults) if self._labelled else None
        tools = _tools(value, faults)
        own = optional_text_of(value, "system", faults) if self.spelling.calls else None
        groups = groups_of(value, self.groups, faults)
        listed = self.spelling.turns
        messages: tuple[Message, ...] = ()
        if listed in value:
            messages = turns_of(value[listed], listed, self.spelling, faults, self._ignored)
        led = bool(messages) and messages[0].role == "system"
        if own and led and own != messages[0].content:
            faults.append(Fault("system", "says something else than the system turn"))
        if faults:
            return None, faults
        if own and messages and not led:
            messages = (Message("system", own), *messages)
        return _judged(self._led(Row(messages, label, tools=tools, groups=groups)), listed)


class PairShape:
    """A `prompt` and a `completion` that are lists of turns, as TRL writes them; together one conversation."""

    name = "prompt-completion"
    quick = None

    def __init__(
        self,
        *,
        system: str | None = None,
        groups: Sequence[str] = (),
        ignored: Sequence[str] = (),
        closed: bool = True,
    ) -> None:
        self._system = Message("system", system) if system else None
        self._groups = tuple(groups)
        self._ignored = tuple(ignored)
        self._closed = closed

    def exact(self, value: Any) -> tuple[Row | None, list[Fault]]:
        known = ("prompt", "completion", *self._groups)
        faults = object_faults(
            value, "", known, optional=("tools", "functions"), ignored=self._ignored, closed=self._closed
        )
        if not isinstance(value, dict):
            return None, faults
        tools = _tools(value, faults)
        groups = groups_of(value, self._groups, faults)
        halves = [
            turns_of(value[name], name, CHAT, faults, self._ignored) if name in value else ()
            for name in ("prompt", "completion")
        ]
        if not faults and not all(halves):
            faults = [Fault(n, "is empty") for n, half in zip(known, halves, strict=False) if not half]
        if faults:
            return None, faults
        messages = (*halves[0], *halves[1])
        if self._system and messages[0].role != "system":
            messages = (self._system, *messages)
        return _judged(Row(messages, tools=tools, groups=groups), "messages")


def _judged(row: Row, listed: str) -> tuple[Row | None, list[Fault]]:
    """The row, or its broken rules, told by the name that the source has for its turns."""
    if faults := row_faults(row):
        if listed != "messages":
            faults = [Fault(re.sub(r"^messages\b", listed, f.field), f.rule) for f in faults]
        return None, faults
    return row, []


def _tools(value: Mapping[str, Any], faults: list[Fault]) -> str | None:
    """The functions that may be called, under their name of today or the one that OpenAI had before."""
    old = tools_text(value.get("functions"), "functions", faults)
    tools = tools_text(value.get("tools"), "tools", faults)
    if old and tools:
        faults.append(Fault("functions", "stands beside `tools`, which says the same"))
    return tools or old
