"""Curves of a run: loss and hold-out loss above, learning rate below where there is room."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import Vertical
from textual_plotext import PlotextPlot

Points = Sequence[tuple[int, float]]


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
        plot = self.query_one("#loss-plot", PlotextPlot)
        _clear(plot, "loss (·)  hold-out loss (o)")
        if len(loss) > 1:
            plot.plt.plot(*_split(loss), marker="braille", color="cyan" if colour else "default")
        if holdout:
            plot.plt.scatter(*_split(holdout), marker="o", color="yellow" if colour else "default")
        plot.refresh()
        second = self.query_one("#rate-plot", PlotextPlot)
        second.display = len(rate) > 1
        _clear(second, "learning rate")
        if len(rate) > 1:
            second.plt.plot(*_split(rate), marker="braille", color="green" if colour else "default")
        second.refresh()


def _clear(plot: PlotextPlot, title: str) -> None:
    plot.theme = "clear"  # the terminal's own foreground and background
    plot.plt.clear_data()
    plot.plt.title(title)


def _split(points: Points) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [value for _, value in points]
