"""What the environment says of the terminal, and what Textual is told of it before it is loaded. It loads nothing."""

from __future__ import annotations

import os

ESCAPE_S = 0.03
"""So soon after an Esc that nothing follows it counts as the key."""
PAINTS = 120
"""A second, at most: what a key changes right behind another paint waits half as long as at Textual's own number."""
POOR = ("linux", "screen", "dumb", "vt", "ansi")
"""Beginnings of TERM for terminals that may print what they do not know."""


def is_poor() -> bool:
    """Whether the terminal is one to be asked nothing."""
    return os.environ.get("TERM", "dumb").startswith(POOR)


def prepare() -> None:
    """Say it in the environment, which Textual reads as it is loaded."""
    os.environ.setdefault("ESCDELAY", str(int(ESCAPE_S * 1000) - 5))
    os.environ.setdefault("TEXTUAL_FPS", str(PAINTS))
    if is_poor():
        os.environ.setdefault("TEXTUAL_DISABLE_KITTY_KEY", "1")
