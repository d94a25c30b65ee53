"""The console in a real pseudo-terminal over a real authority: start to first paint, key to paint on each screen, and
the bytes that it writes to the terminal, idle and beside a live run.

The authority has a thousand datasets and a large ledger; a small program stands in for the worker and tells of some
steps a second, and at last of a thousand lines of its log a second. A paint is what the terminal has drawn, not what
was meant to be. Times in milliseconds; the aims stand beside them.

Options: --rounds, --seconds (of counting bytes), --entries, --folder.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "console"))

from busy_home import BusyHome
from real_terminal import Grid, RealTerminal, console_at

from cloister.console.actions import PLACES

SIZES = ((80, 24), (120, 40))
AIMS = {"first_paint_ms": 1000, "key_p95_ms": 50, "idle_bytes_per_s": 1024, "live_bytes_per_s": 8192}
BEGINS = "1 Overview"
READ = {
    "overview": "→ train",
    "data": "claims-0000",
    "runs": "live",
    "models": "small",
    "serving": "desk-0",
    "clients": "desk-1",
    "audit": "user-",
    "system": "unlock slots",
}
"""What each screen shows once it was read."""


def starts(home: Path, rounds: int) -> dict[str, float]:
    """Start to the first paint of the frame with its keys, and to the first numbers of the authority."""
    frames, contents = [], []
    for _ in range(rounds):
        with console_at(home, size=(80, 24)) as terminal:
            frames.append(1e3 * (terminal.shows(BEGINS, "quit") - terminal.began))
            contents.append(1e3 * (terminal.shows(READ["overview"]) - terminal.began))
    return {
        "first_paint_ms": round(statistics.median(frames), 1),
        "first_paint_max_ms": round(max(frames), 1),
        "first_numbers_ms": round(statistics.median(contents), 1),
    }


def key(terminal: RealTerminal, pressed: str, wanted: Callable[[Grid], object]) -> float:
    """Milliseconds from a key to the paint that shows what it does."""
    began = terminal.press(pressed)
    took = 1e3 * (terminal.until(wanted, 10) - began)
    time.sleep(0.03)
    return took


def keys(terminal: RealTerminal, number: int, rounds: int) -> list[float]:
    """Every sort of key on one screen: the cursor, help and back, a letter of the filter, arming."""
    took = []
    lines = len(terminal.grid.reversed_rows()) == 1
    for _ in range(rounds):
        for direction in ("down", "up") if lines else ():
            before = terminal.grid.reversed_rows()
            took.append(key(terminal, direction, lambda grid, was=before: grid.reversed_rows() != was))
        took.append(key(terminal, "?", lambda grid: "Help:" in grid.text))
        took.append(key(terminal, "escape", lambda grid: "Help:" not in grid.text))
        took.append(key(terminal, "w", lambda grid: " ARMED" in grid.text))
        took.append(key(terminal, "w", lambda grid: "read-only" in grid.text.split("\n")[0]))
        terminal.press("/")
        terminal.until(lambda grid: "only lines with" in grid.text)
        took.append(key(terminal, "0", lambda grid: "\n0" in grid.text))
        took.append(key(terminal, "1", lambda grid: "\n01" in grid.text))
        terminal.press("escape")
        terminal.until(lambda grid: "\n01" not in grid.text)
        terminal.press("home")  # an id may have held what was looked for: the cursor is on its line then
        time.sleep(0.2)
    return took


def p95(values: list[float]) -> float:
    return round(sorted(values)[max(0, int(len(values) * 0.95) - 1)], 1)


def screens(home: Path, size: tuple[int, int], rounds: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    every: list[float] = []
    with console_at(home, size=size) as terminal:
        terminal.shows(READ["overview"])
        time.sleep(2.5)  # what the start left to be done
        for number, place in enumerate(PLACES, 1):
            if number > 1:
                tab = f" {number} {place.capitalize()} "
                took = key(terminal, str(number), lambda grid, tab=tab: shows_tab(grid, tab))
                found.setdefault("first_visit_ms", {})[place] = round(took, 1)
            terminal.shows(READ[place])
            time.sleep(0.5)
            took_here = keys(terminal, number, rounds)
            every += took_here
            found.setdefault("key_p95_ms", {})[place] = p95(took_here)
        switches = []
        for _ in range(rounds):
            for number, place in enumerate(PLACES, 1):
                tab = f" {number} {place.capitalize()} "
                switches.append(key(terminal, str(number), lambda grid, tab=tab: shows_tab(grid, tab)))
        every += switches
        found["switch_p95_ms"] = p95(switches)
        found["all_p95_ms"], found["all_median_ms"] = p95(every), round(statistics.median(every), 1)
        found["keys"] = len(every)
    return found


def shows_tab(grid: Grid, tab: str) -> bool:
    """Whether the tab of a screen is the one in front."""
    line = "".join(cell for cell, _ in grid.cells[1])
    at = line.find(tab)
    return at >= 0 and "7" in grid.cells[1][at + 1][1].split(";")


def written(home: Path, seconds: float, live: bool) -> dict[str, Any]:
    """Bytes a second on each screen; beside a live run on its own screen, where it is opened, too."""
    found: dict[str, Any] = {}
    for size in SIZES:
        with console_at(home, size=size) as terminal:
            terminal.shows(READ["overview"])
            time.sleep(2)
            for number, place in enumerate(PLACES, 1):
                terminal.press(str(number))
                terminal.shows(READ[place])
                time.sleep(1.5)
                found[f"{size[0]}x{size[1]}.{place}"] = round(terminal.bytes_in(seconds))
            if live:
                terminal.press("3")
                terminal.shows(READ["runs"])
                terminal.press("enter")
                time.sleep(1.5)
                found[f"{size[0]}x{size[1]}.runs opened"] = round(terminal.bytes_in(seconds))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bc-", dir=arguments.folder))
    busy = BusyHome(folder / "h")
    try:
        busy.furnish(datasets=1_000, models=3, entries=arguments.entries)
        for number in range(3):
            busy.client.issue_client(client_request(f"desk-{number}"))
        job = busy.start_run()
        busy.ask_run("next")
        result: dict[str, Any] = {"bench": "console", "datasets": 1_000, "entries": arguments.entries}
        result |= starts(folder / "h", arguments.rounds)
        for size in SIZES:
            result[f"{size[0]}x{size[1]}"] = screens(folder / "h", size, arguments.rounds)
        result["idle_bytes_per_s"] = written(folder / "h", arguments.seconds, live=False)
        busy.say(numbers=5)
        result["live_bytes_per_s"] = written(folder / "h", arguments.seconds, live=True)
        result["live"] = screens(folder / "h", (120, 40), arguments.rounds)
        busy.say(lines=1000)
        result["flood"] = screens(folder / "h", (80, 24), arguments.rounds)
        busy.client.cancel_job(job)
    finally:
        busy.close()
        shutil.rmtree(folder)
    for name, aim in AIMS.items():
        print(f"{name}: aim under {aim}")
    print(json.dumps(result))


def client_request(name: str) -> Any:
    from cloister.api import ClientRequest

    return ClientRequest(name=name)


if __name__ == "__main__":
    main()
