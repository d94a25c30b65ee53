"""Curves of a run over its steps: loss and hold-out loss; learning rate below where there is room."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import Vertical
from textual_plotext import PlotextPlot

Points = Sequence[tuple[int, float]]
TICKS = 4
MARKER = "*" if os.environ.get("TERM") == "linux" else "braille"
"""The Linux console's font has no braille."""
WIDE_RANGE = 20
"""From this ratio of the greatest to the least on, losses are drawn by their logarithm."""


class Curves(Vertical):
    """Two plots over steps. Words below them say the same for whoever does not see them."""

    def __init__(self) -> None:
        super().__init__(id="curves")
        self._shown: object = None

    def compose(self) -> ComposeResult:
        yield PlotextPlot(id="loss-plot", classes="plot")
        yield PlotextPlot(id="rate-plot", classes="plot")

    def tell(self, loss: Points, holdout: Points, rate: Points, *, colour: bool) -> None:
        """Draw them, where they differ from what is drawn."""
        now = (tuple(loss[-1:]), len(loss), tuple(holdout[-1:]), len(holdout), len(rate), colour)
        self.display = len(loss) > 1 or len(holdout) > 1
        if now == self._shown or not self.display:
            return
        self._shown = now
        both = [*loss, *holdout]
        values = [value for _, value in both]
        logarithmic = min(values) > 0 and max(values) / min(values) > WIDE_RANGE
        plot = self.query_one("#loss-plot", PlotextPlot)
        scale = ", logarithmic" if logarithmic else ""
        _clear(plot, f"loss (line), hold-out loss (o){scale}")
        if len(loss) > 1:
            plot.plt.plot(*_split(loss, logarithmic), marker=MARKER, color="cyan" if colour else "default")
        if holdout:
            plot.plt.scatter(
                *_split(holdout, logarithmic), marker="o", color="yellow" if colour else "default"
            )
        _ticks(plot, values, [step for step, _ in both], logarithmic)
        plot.refresh()
        second = self.query_one("#rate-plot", PlotextPlot)
        second.set_class(len(rate) <= 1, "-nothing")
        _clear(second, "learning rate")
        if len(rate) > 1:
            second.plt.plot(*_split(rate), marker=MARKER, color="green" if colour else "default")
            _ticks(second, [value for _, value in rate], [step for step, _ in rate], False)
        second.refresh()


def _clear(plot: PlotextPlot, title: str) -> None:
    plot.theme = "clear"  # the terminal's own foreground and background
    plot.plt.clear_data()
    plot.plt.title(title)


def _split(points: Points, logarithmic: bool = False) -> tuple[list[int], list[float]]:
    values = [math.log10(value) if logarithmic else value for _, value in points]
    return [step for step, _ in points], values


def _ticks(plot: PlotextPlot, values: Sequence[float], steps: Sequence[int], logarithmic: bool) -> None:
    """Whole steps below, round enough values at the side."""
    low, high = min(values), max(values)
    if logarithmic:
        low, high = math.log10(low), math.log10(high)
    places = [low + (high - low) * i / (TICKS - 1) for i in range(TICKS)]
    plot.plt.yticks(places, [f"{10**place if logarithmic else place:.2g}" for place in places])
    first, last = min(steps), max(steps)
    below = sorted({first + (last - first) * i // (TICKS - 1) for i in range(TICKS)})
    plot.plt.xticks([float(step) for step in below], [str(step) for step in below])
