"""A screen as text for a snapshot: its lines, then where which style stands."""

from __future__ import annotations

from typing import Any

from console_world import still
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode
from textual.app import App
from textual.pilot import Pilot

from cloister.console.app import ConsoleApp


def pictured(app: App[Any]) -> str:
    """The lines as they stand, then for each line its stretches that have a style: `row:from-to style`."""
    lines, styles = [], []
    for row, line in enumerate(app.screen._compositor.render_strips()):
        lines.append("".join(segment.text for segment in line).rstrip())
        column, stretches = 0, list[tuple[int, int, str]]()
        for segment in line:
            style = (
                "" if segment.style is None else str(segment.style.without_color + _colours(segment.style))
            )
            style = style.replace("default on default", "").replace(" on default", "").strip()
            end = column + segment.cell_length
            if (style not in ("", "none") and segment.text.strip()) or "reverse" in style:
                if stretches and stretches[-1][1:] == (column, style):
                    stretches[-1] = (stretches[-1][0], end, style)
                else:
                    stretches.append((column, end, style))
            column = end
        styles += [f"{row:>2}:{start}-{end} {style}" for start, end, style in stretches]
    return "\n".join([*lines, "-" * app.size.width, *styles, ""])


async def stood(app: ConsoleApp, pilot: Pilot[None]) -> str:
    """The picture of a screen that has been told all, once it stands still."""
    shot = ""
    while shot != (again := pictured(app)):
        shot = again
        await still(app, pilot)
        await pilot.pause(0.05)
    return shot


def _colours(style: Any) -> Any:
    from rich.style import Style

    return Style(color=style.color, bgcolor=style.bgcolor)


class ScreenSnapshot(SingleFileSnapshotExtension):
    """One text file a screen: a change shows as a change of lines."""

    file_extension = "txt"
    _write_mode = WriteMode.TEXT
