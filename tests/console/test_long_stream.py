"""A long stream: the console's memory stays as it is."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from busy_home import BusyHome
from real_terminal import console_at

GROWN_MIB = 16


def resident(pid: int) -> float:
    """Resident memory of a process, in MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.soak
def test_an_hours_stream_leaves_the_memory_flat(tmp_path: Path) -> None:
    """As many lines as an hour of them at 150 a second, and as many numbers as an hour of them at 5 a second, in a
    sixth of the time, with the run's screen open."""
    busy = BusyHome(tmp_path / "h")
    try:
        busy.furnish(datasets=100)
        busy.start_run()
        with console_at(busy.home.root, size=(120, 40)) as terminal:
            terminal.shows("→ train")
            terminal.press("3")
            terminal.shows("live")
            measured: list[float] = []
            written = terminal.bytes
            for minute in range(10):
                busy.say(**({"numbers": 60} if minute % 2 else {"lines": 1800}))
                time.sleep(60)
                measured.append(resident(terminal.process.pid))
                terminal.press("?")
                terminal.until(lambda grid: "Help:" in grid.text)
                terminal.press("escape")
                terminal.until(lambda grid: "Help:" not in grid.text)
            rate = (terminal.bytes - written) / 600
        events = busy.client.status().last_seq
    finally:
        busy.close()
    assert max(measured) - measured[1] < GROWN_MIB, measured
    print(
        f"soak: events={events} mib_first={measured[1]:.0f} mib_last={measured[-1]:.0f} mib_most={max(measured):.0f} "
        f"bytes_per_s={rate:.0f}"
    )
