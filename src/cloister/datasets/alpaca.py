"""Alpaca rows in JSON: `instruction`, perhaps `input`, `output`, `system` and a `history` of earlier turns.

Instruction and input make the question, one line feed between them. Tables have no history: `columns` reads those.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from cloister.api import ColumnMap
from cloister.datasets.columns import ALPACA, Columns, FieldsShape
from cloister.datasets.problems import Fault
from cloister.datasets.rows import Message, Row
from cloister.datasets.shapes import object_faults
from cloister.datasets.validate import text_fault


class AlpacaShape(FieldsShape):
    """As `FieldsShape`, and `history`: a list of pairs, earlier questions with their answers."""

    def __init__(
        self, *, system: str | None = None, groups: Sequence[str] = (), ignored: Sequence[str] = ()
    ) -> None:
        plan: ColumnMap = ALPACA.model_copy(update={"groups": tuple(groups)})
        columns = Columns(plan, name="alpaca", more="input", system=system)
        super().__init__(columns, closed=True, ignored=ignored)

    def exact(self, value: Any) -> tuple[Row | None, list[Fault]]:
        if not isinstance(value, dict) or value.get("history") in (None, []):
            return self._flat(value)
        faults = object_faults(value, "", (), optional=("history",), closed=False)
        turns: list[Message] = []
        history = value["history"]
        if not isinstance(history, list):
            faults.append(Fault("history", "must be an array of pairs"))
            history = []
        for position, pair in enumerate(history):
            at = f"history[{position}]"
            if not isinstance(pair, list) or len(pair) != 2:
                faults.append(Fault(at, "must be a pair of question and answer"))
                continue
            for number, text in enumerate(pair):
                rule = text_fault(text) if isinstance(text, str) else "must be a string"
                if rule:
                    faults.append(Fault(f"{at}[{number}]", rule))
                else:
                    turns.append(Message("assistant" if number else "user", text))
        row, found = self._flat(value)
        faults += found
        if faults or row is None:
            return None, faults
        head = row.messages[:-2]
        return msgspec.structs.replace(row, messages=(*head, *turns, *row.messages[-2:])), []

    def _flat(self, value: Any) -> tuple[Row | None, list[Fault]]:
        if isinstance(value, dict) and "history" in value:
            rest = type(value)({key: held for key, held in value.items() if key != "history"})
            if repeated := getattr(value, "repeated", ()):
                rest.repeated = tuple(key for key in repeated if key != "history")  # type: ignore[attr-defined]
            return super().exact(rest)
        return super().exact(value)
