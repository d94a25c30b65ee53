"""The form of a new run: each field beside its label, and below them what such a run would take, as they change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import Input, Select, Static

from cloister.console.asking_run import about_preset, expected, no_plan, plan_of, settings_of
from cloister.console.paint import outside
from cloister.console.screens.dialogs import Field, Form
from cloister.errors import CloisterError

if TYPE_CHECKING:
    from cloister.api import RunPlan
    from cloister.console.app import ConsoleApp

WHOLE = 56
"""Columns of a choice, where no help stands beside it."""
QUIET_S = 0.3
"""So long nothing is typed before the authority is asked."""


class NewRun(Form):
    """Asks for a plan whenever its fields have rested, and shows the newest answer only."""

    BESIDE = (
        "What such a run would take: memory against what there is, time with its span, cost, each measured on this "
        "machine or estimated. It follows as you type; where it does not fit, it says what to change."
    )

    def __init__(self, title: str, fields: Sequence[Field], **more: Any) -> None:
        super().__init__(title, fields, **more)
        self._asked: dict[str, str] | None = None
        self._preset = fields[1].value or fields[1].choices[0]
        self._resting: Timer | None = None

    def lines(self) -> ComposeResult:
        for field in self._fields:
            with Horizontal(classes="beside"):
                yield Static(outside(field.label, style="bold"), classes="label", markup=False)
                entry = self.entry(field, WHOLE)
                yield entry.add_class("whole") if field.choices and not field.help else entry
                if field.help:
                    yield Static(outside(field.help, style="dim"), markup=False)

    def beneath(self) -> Iterable[Widget]:
        with VerticalScroll(id="plan"):
            yield Static(Text("Asking what it would take …", "dim"), markup=False)

    def on_input_changed(self) -> None:
        self._rest()

    def on_select_changed(self, event: Select.Changed) -> None:
        preset = str(event.value)
        if event.select.id == "field-preset" and preset != self._preset:
            self._preset = preset
            self._fill(preset)
        self._rest()

    def _fill(self, preset: str) -> None:
        """Put the preset's settings into the fields; the rest of it goes along unseen."""
        title = Text(self._title) + Text(f": {about_preset(preset)}", "not bold")
        self.query_one(".title", Static).update(title)
        for name, value in settings_of(preset).items():
            widget = self.query_one(f"#field-{name}")
            if isinstance(widget, Input | Select):
                widget.value = value

    # --- the plan -----------------------------------------------------------------------------

    def _rest(self) -> None:
        if self._resting is not None:
            self._resting.stop()
        self._resting = self.set_timer(QUIET_S, self._ask)

    def _ask(self) -> None:
        values = self._values()
        values["name"] = values["priority"] = ""  # nothing of the plan depends on them
        if values == self._asked:
            return
        self._asked = values
        try:
            request = plan_of(values | {"priority": "0"})
        except (CloisterError, ValueError) as error:
            self._tell(values, no_plan(error.message if isinstance(error, CloisterError) else "not a number"))
            return
        cast("ConsoleApp", self.app).request(
            lambda client: client.plan(request),
            lambda plan: self._planned(values, plan),
            doing="plan",
            failed=lambda problem: self._tell(values, no_plan(problem)),
            quiet=True,
        )

    def _planned(self, values: dict[str, str], plan: RunPlan) -> None:
        self._tell(values, expected(plan))

    def _tell(self, values: dict[str, str], text: Text) -> None:
        """Show it, where it answers the question that was asked last."""
        if values is self._asked and self.is_attached:
            self.query_one("#plan Static", Static).update(text)
