"""Flat rows: named texts, and the question and answer (or plain text) that they make.

One plan serves the columns of a table and the fields of flat JSON objects. It knows names and texts; it does not
know how a source spells them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgspec

from cloister.api import ColumnMap
from cloister.datasets.problems import Fault, Unreadable
from cloister.datasets.rows import Row
from cloister.datasets.shapes import (
    build_row,
    groups_of,
    key_pattern,
    label_of,
    object_faults,
    optional_text_of,
    text_of,
)
from cloister.datasets.validate import group_fault, is_bad_text, text_fault

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
        groups = self._groups(values) if self.groups else {}
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

    def _groups(self, values: Sequence[str | None]) -> dict[str, str]:
        return {name: v for name, v in zip(self.groups, values[self._first_group :], strict=True) if v}

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

    def sound(self, values: Sequence[str | None]) -> bool:
        """Whether it is known at a glance that `faults` would find nothing."""
        for value in values[: self._texts]:
            if value is None or is_bad_text(value):
                return False
        if self._at_label is not None:
            return False
        return not any(values[self._texts :]) or not self.faults(values)


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
        self.keys: re.Pattern[bytes] = key_pattern(columns.names)
        self._width = len(columns.names)
        self._always = len(columns.required) + len(columns.groups)
        self._options = range(first, first + len(columns.optional))

    @property
    def quick(self) -> FieldsShape:
        return self

    def build(self, item: Any) -> Row:
        return self._columns.row(msgspec.structs.astuple(item)[: self._width])

    def occurrences(self, items: Sequence[Any]) -> int:
        found = len(items) * self._always
        for position in self._options:
            name = f"f{position}"
            found += sum([getattr(item, name) is not None for item in items])
        return found

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
