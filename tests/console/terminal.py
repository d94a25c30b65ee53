"""A program in a real tmux, by keys and by what stands on its screen."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


class Terminal:
    """One pane, `size` columns and lines. Keys have tmux's names: `Enter`, `Escape`, `Tab`, `BSpace`, `Down`."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def tmux(self, *arguments: str) -> str:
        command = ["tmux", "-f", "/dev/null", "-S", str(self._socket), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout

    @property
    def screen(self) -> str:
        """What stands there, a line a row."""
        return self.tmux("capture-pane", "-p", "-t", "console")

    @property
    def styled(self) -> str:
        """The same with its colours, as escape sequences."""
        return self.tmux("capture-pane", "-p", "-e", "-t", "console")

    def press(self, *keys: str) -> None:
        self.tmux("send-keys", "-t", "console", *keys)

    def type_in(self, text: str) -> None:
        self.tmux("send-keys", "-t", "console", "-l", text)

    def until(self, *wanted: str | Callable[[str], object], seconds: float = 60) -> str:
        """Wait until all of it is on the screen, which is returned. Fails with the screen as it is."""
        end = time.monotonic() + seconds
        while True:
            text = self.screen
            if all(one in text if isinstance(one, str) else one(text) for one in wanted):
                return text
            assert time.monotonic() < end, f"waited for {wanted}:\n{text}"
            time.sleep(0.1)

    def ended(self, seconds: float = 60) -> None:
        """Wait until the program has ended, and the terminal with it."""
        end = time.monotonic() + seconds
        while self._alive():
            assert time.monotonic() < end, self.screen
            time.sleep(0.1)

    def _alive(self) -> bool:
        command = ["tmux", "-S", str(self._socket), "has-session", "-t", "console"]
        return subprocess.run(command, capture_output=True, timeout=60).returncode == 0


@contextmanager
def terminal(
    folder: Path, size: tuple[int, int], command: Sequence[str], environment: Mapping[str, str]
) -> Iterator[Terminal]:
    """Run it in a tmux server of its own, which ends with the block."""
    opened = Terminal(folder / "tmux")
    settings = [f"{name}={value}" for name, value in environment.items()]
    opened.tmux(
        *("new-session", "-d", "-s", "console", "-x", str(size[0]), "-y", str(size[1])),
        *(word for setting in settings for word in ("-e", setting)),
        *command,
        *(";", "set", "-g", "status", "off"),
    )
    try:
        yield opened
    finally:
        if opened._alive():
            opened.tmux("kill-server")
