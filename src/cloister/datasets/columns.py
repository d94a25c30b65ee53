"""Flat rows: named texts, and the question and answer (or plain text) that they make.

One plan serves the columns of a table and the fields of flat JSON objects. It knows names and texts; it does not
know how a source spells them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from itertools import chain, repeat
from typing import Any, cast

import msgspec

from cloister.api import ColumnMap
from cloister.datasets.problems import Fault, Unreadable
from cloister.datasets.rows import Message, Row
from cloister.datasets.shapes import (
    AtOnce,
    build_row,
    groups_of,
    key_pattern,
    label_of,
    object_faults,
    optional_text_of,
    rows_of_turns,
    text_of,
)
from cloister.datasets.validate import are_groups, are_texts, group_fault, text_fault

PAIR = ColumnMap(input="prompt", output="completion", system="system")
ALPACA = ColumnMap(input="instruction", output="output", system="system")
TEXT = ColumnMap(text="text")


class Columns:
    """Which texts make a row. Values always come in the order of `names`; one that is not there is None.

    Args:
        columns: the names; `label` in place of `output` marks a classification task.
        more: a column whose text, where there is some, follows the question's on a line of its own.
        system: the system turn of every row that brings none.
        labelled: whether a column `label` repeats the answer.
    """

    def __init__(
        self,
        columns: ColumnMap,
        *,
        name: str = "columns",
        more: str | None = None,
        system: str | None = None,
        labelled: bool = False,
    ) -> None:
        more = more or columns.context
        self.name = name
        self.is_text = columns.text is not None
        self.label = columns.label
        self._system = system
        asked = [columns.text] if self.is_text else [columns.input, columns.output or columns.label]
        self.required = tuple(n for n in (*asked, "label" if labelled else None) if n is not None)
        self.optional = tuple(n for n in (columns.system, more) if n is not None)
        self.groups = columns.groups
        self.names = (*self.required, *self.optional, *self.groups)
        place = {n: i for i, n in enumerate(self.names)}
        self._at_label = place["label"] if labelled else None
        self._at_system = place[columns.system] if columns.system else None
        self._at_more = place[more] if more else None
        self._texts = len(self.required)
        self._first_group = self._texts + len(self.optional)

    def row(self, values: Sequence[str | None]) -> Row:
        """The row of values in which `faults` would find nothing."""
        groups = self._groups(values[self._first_group :]) if self.groups else {}
        question = values[0] or ""
        if self.is_text:
            return Row(text=question, groups=groups)
        if self._at_more is not None and (more := values[self._at_more] or "").strip():
            question = f"{question}\n{more}"
        own = values[self._at_system] if self._at_system is not None else None
        answer = values[1] or ""
        if self.label is not None:
            answer = answer.strip()
            return build_row(own or self._system, question, answer, answer, groups)
        label = values[self._at_label] if self._at_label is not None else None
        return build_row(own or self._system, question, answer, label, groups)

    def rows(self, columns: Sequence[Sequence[str | None]]) -> list[Row] | None:
        """The rows of whole columns in the order of `names`, whose texts hold no NUL character; None where `faults`
        would find something, or may."""
        if not columns[0]:
            return []
        if not all(map(are_texts, columns[: self._texts])):
            return None
        if self._at_label is not None and columns[self._at_label] != columns[1]:
            return None
        asked = cast("Sequence[str]", columns[0])
        held = columns[self._first_group :]
        if not all(map(are_groups, held)):
            return None
        groups = [self._groups(values) for values in zip(*held, strict=True)]
        if self.is_text and not groups:
            return [Row(text=text) for text in asked]
        if self.is_text:
            return [Row(text=text, groups=group) for text, group in zip(asked, groups, strict=True)]
        if self._at_more is not None:
            more = columns[self._at_more]
            asked = [f"{q}\n{m}" if m and not m.isspace() else q for q, m in zip(asked, more, strict=True)]
        told = cast("Sequence[str]", columns[1])
        if self.label is not None:
            told = list(map(str.strip, told))
        turns: list[tuple[Message, ...]]
        turns = [(Message("user", q), Message("assistant", a)) for q, a in zip(asked, told, strict=True)]
        own = columns[self._at_system] if self._at_system is not None else ()
        if any(map(str.isspace, filter(None, own))):
            return None
        if self._system or any(own):
            leads = [one or self._system for one in own or repeat(None, len(turns))]
            turns = [(Message("system", s), *t) if s else t for s, t in zip(leads, turns, strict=True)]
        labelled = self.label is not None or self._at_label is not None
        return rows_of_turns(turns, told if labelled else (), groups)

    def _groups(self, values: Sequence[str | None]) -> dict[str, str]:
        return {name: v for name, v in zip(self.groups, values, strict=True) if v}

    def is_blank_more(self, name: str, value: object) -> bool:
        """Whether this is the column of further text, and holds nothing but white space."""
        return (
            self._at_more is not None
            and name == self.names[self._at_more]
            and isinstance(value, str)
            and not value.strip()
        )

    def faults(self, values: Sequence[str | None]) -> list[Fault]:
        """Every broken rule of one row's texts."""
        faults: list[Fault] = []
        for position, (name, value) in enumerate(zip(self.names, values, strict=True)):
            if position >= self._texts and not value:
                continue
            if position == self._at_more and (value or "").isspace():
                continue
            judge = group_fault if position >= self._first_group else text_fault
            if rule := judge(value or ""):
                faults.append(Fault(name, rule))
        if not faults and self._at_label is not None and values[self._at_label] != values[1]:
            faults.append(Fault("label", "must be the same as the assistant's last answer"))
        return faults


def recognised(
    names: Collection[str], columns: ColumnMap | None, system: str | None, *, closed: bool = False
) -> Columns | None:
    """The plan for rows with these names: the mapped columns, else those of a known format, else None.

    A column `text` is taken for plain text only where it is the only one that tells what a row is.

    Raises:
        Unreadable: rows are plain text, and a system message is to lead them.
    """
    given = columns or ColumnMap()
    if given.input or given.text:
        if given.text:
            _refuse_system(system)
        return Columns(given, system=system)
    with_groups = {"groups": given.groups}
    labelled = closed and "label" in names
    if "prompt" in names or "completion" in names:
        plan = PAIR.model_copy(update=with_groups)
        return Columns(plan, name="prompt-completion", system=system, labelled=labelled)
    if "instruction" in names and "output" in names:
        plan = ALPACA.model_copy(update=with_groups)
        return Columns(plan, name="alpaca", more="input", system=system)
    if "text" in names and not set(names) - {"text", *given.groups, *given.ignore}:
        _refuse_system(system)
        return Columns(TEXT.model_copy(update=with_groups), name="text")
    return None


def _refuse_system(system: str | None) -> None:
    if system:
        raise Unreadable("plain text has no system message", remedy="Leave --system-file out.")


class FieldsShape:
    """One flat JSON object a row.

    Args:
        columns: which fields.
        closed: whether any other field is a fault (so for a recognised format), or not looked at
            (so for fields that somebody has mapped).
        ignored: fields that may be there all the same.
    """

    def __init__(self, columns: Columns, *, closed: bool, ignored: Sequence[str] = ()) -> None:
        self.name = columns.name
        self._columns = columns
        self._closed = closed
        self._ignored = tuple(n for n in ignored if n not in columns.names)
        fields: list[Any] = [(f"f{i}", str) for i in range(len(columns.required))]
        first = len(columns.required)
        for position in range(first, first + len(columns.optional)):
            fields.append((f"f{position}", str | None, None))
        for position in range(first + len(columns.optional), len(columns.names)):
            fields.append((f"f{position}", str))
        names = {f"f{i}": name for i, name in enumerate(columns.names)}
        for position, name in enumerate(self._ignored if closed else (), len(columns.names)):
            fields.append((f"f{position}", msgspec.Raw, msgspec.Raw(b"0")))
            names[f"f{position}"] = name
        wire = msgspec.defstruct(
            "Fields", fields, rename=names, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=closed
        )
        self.decode: Callable[[bytes], Any] = msgspec.json.Decoder(wire).decode
        whole = closed and not self._ignored
        self.keys: re.Pattern[bytes] | None = None if whole else key_pattern(columns.names)
        self._fields = [f"f{position}" for position in range(len(columns.names))]

    @property
    def quick(self) -> FieldsShape:
        return self

    def at_once(self, items: Sequence[Any]) -> AtOnce | None:
        columns = [[getattr(item, name) for item in items] for name in self._fields]
        rows = self._columns.rows(columns)
        if rows is None:
            return None
        texts = [text for text in chain.from_iterable(columns) if text is not None]
        return AtOnce(rows, names=len(texts), strings=2 * len(texts), texts=texts)

    def exact(self, value: Any) -> tuple[Row | None, list[Fault]]:
        plan = self._columns
        known = (*plan.required, *plan.groups)
        faults = object_faults(
            value, "", known, optional=plan.optional, ignored=self._ignored, closed=self._closed
        )
        if not isinstance(value, dict):
            return None, faults
        texts = [
            label_of(value, name, faults) if name == plan.label else text_of(value, name, faults)
            for name in plan.required
        ]
        texts += [
            None if plan.is_blank_more(name, value.get(name)) else optional_text_of(value, name, faults)
            for name in plan.optional
        ]
        groups = groups_of(value, plan.groups, faults)
        texts += [groups.get(name) for name in plan.groups]
        faults = faults or plan.faults(texts)
        return (None, faults) if faults else (plan.row(texts), [])
