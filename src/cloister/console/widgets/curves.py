"""Curves of a run over its steps: loss and hold-out loss; learning rate below them where there is room, else further
down."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import Vertical
from textual_plotext import PlotextPlot

Points = Sequence[tuple[int, float]]
TICKS = 4
REST_S = 1.8
"""The picture of a live run is drawn about so often, at every other word of it."""
MARKER = "*" if os.environ.get("TERM") == "linux" else "braille"
"""The Linux console's font has no braille."""
WIDE_RANGE = 20
"""From this ratio of the greatest to the least on, losses are drawn by their logarithm."""


class Curves(Vertical):
    """Two plots over steps. Words below them say the same for whoever does not see them."""

    def __init__(self) -> None:
        super().__init__(id="curves")
        self._shown: object = None
        self._of: str | None = None
        self._drawn_at = 0.0

    def compose(self) -> ComposeResult:
        yield PlotextPlot(id="loss-plot", classes="plot")
        yield PlotextPlot(id="rate-plot", classes="plot")

    def hurry(self) -> None:
        """Draw what is told next, however soon."""
        self._of = None

    def tell(
        self,
        of: str,
        loss: Points,
        holdout: Points,
        rate: Points,
        *,
        colour: bool,
        below: PlotextPlot | None = None,
    ) -> None:
        """Draw those of a job, where they differ from what is drawn. Of the same job, what came within `REST_S` of the
        last time is drawn with what comes next: over a slow line a picture is dear. `below` shows the learning rate
        where there is no room for two."""
        now = (tuple(loss[-1:]), len(loss), tuple(holdout[-1:]), len(holdout), len(rate), colour)
        known = len(loss) > 1 or len(holdout) > 1
        self.set_class(known, "-drawn")
        if not known and below is not None:
            below.add_class("-nothing")
        if (of, now) == self._shown or not known:
            return
        if self._of == of and time.monotonic() - self._drawn_at < REST_S:
            return
        self._of, self._shown, self._drawn_at = of, (of, now), time.monotonic()
        both = [*loss, *holdout]
        values = [value for _, value in both]
        logarithmic = min(values) > 0 and max(values) / min(values) > WIDE_RANGE
        plot = self.query_one("#loss-plot", PlotextPlot)
        scale = ", logarithmic" if logarithmic else ""
        _clear(plot, f"loss (line), hold-out loss (o){scale}")
        if len(loss) > 1:
            plot.plt.plot(*_split(loss, logarithmic), marker=MARKER, color="default")
        if holdout:
            plot.plt.scatter(
                *_split(holdout, logarithmic), marker="o", color="magenta" if colour else "default"
            )
        _ticks(plot, values, [step for step, _ in both], logarithmic)
        plot.refresh()
        _draw_rate(self.query_one("#rate-plot", PlotextPlot), rate)
        if below is not None:
            _draw_rate(below, rate)


def _draw_rate(plot: PlotextPlot, rate: Points) -> None:
    plot.set_class(len(rate) <= 1, "-nothing")
    _clear(plot, "learning rate")
    if len(rate) > 1:
        plot.plt.plot(*_split(rate), marker=MARKER, color="default")
        _ticks(plot, [value for _, value in rate], [step for step, _ in rate], False)
    plot.refresh()


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
