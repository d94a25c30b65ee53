"""A screen that is laid out and painted once for a key, where Textual does both again for each step on the way.

It knows nothing of what it shows. The names that begin with an underscore are Textual's own.
"""

from __future__ import annotations

from typing import Any, TypeVar

from textual.events import ScreenResume
from textual.geometry import Size
from textual.screen import ModalScreen, Screen
from textual.strip import Strip
from textual.style import Style
from textual.visual import RenderOptions, Visual

Result = TypeVar("Result")


class Painted(Screen[Result]):
    """It has its final look from the start: the classes for the size of the terminal, and no style sheet read again."""

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        self._css_update_count = self.app._css_update_count
        self.update_classes(dict.fromkeys(self._sized(self.app.size), True), update=False)

    def paint(self) -> None:
        """Paint all of it, as soon as it has taken in what it was told until now."""
        self.refresh()
        self.call_later(self._on_timer_update)

    def _sized(self, size: Size) -> set[str]:
        wide = self._get_breakpoint_classes(size.width, self.app.HORIZONTAL_BREAKPOINTS or [])
        return wide | self._get_breakpoint_classes(size.height, self.app.VERTICAL_BREAKPOINTS or [])

    def _screen_resized(self, size: Size) -> None:
        """Told of a size, it is laid out anew where that is another one; what else moves it, it is told by itself."""
        if size != self._compositor.size:
            super()._screen_resized(size)

    def _on_screen_resume(self, event: ScreenResume) -> None:
        event.refresh_styles = False  # they are told of whatever changes them

    def _compositor_refresh(self) -> None:
        if not self.app._batch_count:  # else it is drawn for nobody
            super()._compositor_refresh()

    async def _invoke_and_clear_callbacks(self) -> None:
        if not self.app._batch_count:  # what is to be done after it was painted is done then
            await super()._invoke_and_clear_callbacks()

    def _on_timer_update(self) -> None:
        """What is to be laid out and painted whole is painted once, not first where it moved."""
        if self._layout_required and self._repaint_required and not self.app._batch_count:
            self._repaint_required = False
            self._dirty_widgets.add(self)
        super()._on_timer_update()


class Behind(Visual):
    """A screen that stands behind another one, as it was drawn."""

    def __init__(self, screen: Screen[Any]) -> None:
        self._screen = screen

    def render_strips(
        self, width: int, height: int | None, style: Style, options: RenderOptions
    ) -> list[Strip]:
        return self._screen._compositor.render_strips()[:height]

    def get_optimal_width(self, rules: Any, container_width: int) -> int:
        return container_width

    def get_height(self, rules: Any, width: int) -> int:
        return self._screen._compositor.size.height


class Dialog(ModalScreen[Result], Painted[Result]):
    """A screen over another one, which keeps its keys to itself. The first base is the one that gives the style."""

    def render(self) -> Any:
        """The screen behind, as it is: nothing tints it."""
        stack = self.app.screen_stack
        place = stack.index(self) if self in stack else 0
        return Behind(stack[place - 1]) if place else super().render()
