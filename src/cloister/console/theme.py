"""The console's colours: the terminal's own sixteen, right in a light and in a dark one, and in 16 or 256 colours."""

from dataclasses import replace

from textual.theme import BUILTIN_THEMES

_ANSI = BUILTIN_THEMES["ansi-dark"]
THEME = replace(
    _ANSI,
    name="cloister",
    variables={
        **_ANSI.variables,
        "border-blurred": "ansi_bright_black",
        "scrollbar": "ansi_bright_black",
        "scrollbar-background": "ansi_default",
        "scrollbar-active": "ansi_cyan",
        "scrollbar-hover": "ansi_cyan",
        "scrollbar-corner-color": "ansi_default",
    },
)
