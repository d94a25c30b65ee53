"""The console in a real pseudo-terminal over a real authority: terminals of every sort, resizes, signals, a line that
goes; an authority that hangs, dies, is locked; much to show and much that is said. It says what is wrong, goes on
answering keys, and recovers by itself.
"""

from __future__ import annotations

import asyncio
import os
import pty
import random
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from busy_home import BusyHome, Line
from console_world import console, type_in, until
from real_terminal import Grid, RealTerminal, console_at

from cloister.console.actions import PLACES

IDLE_BYTES, LIVE_BYTES = 1024, 8192
"""A second, at most."""
SCREEN_BYTES = 32_768
"""What one key may write to a screen of 120 columns by 40: every line of it anew, with its colours, is half of that."""
ENTRIES = 5_000
FONT = {bytes([code]).decode("cp437") for code in range(256)} | set("•○►▲▼↑↓→←×")
"""What the Linux console shows with the font of its own: code page 437, and what that puts another sign for."""
COLOURS = {str(code) for base in (30, 40, 90, 100) for code in range(base, base + 8)} | {"38", "48"}
KINDS = {
    "linux": {"TERM": "linux"},
    "screen": {"TERM": "screen-256color"},
    "sixteen": {"TERM": "xterm-16color"},
    "no colour": {"NO_COLOR": "1"},
}


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BusyHome]:
    """A thousand datasets, a long ledger, and a run that goes on."""
    here = BusyHome(tmp_path_factory.mktemp("busy"))
    try:
        here.furnish(datasets=1_000, entries=ENTRIES)
        here.start_run()
        yield here
    finally:
        here.close()


@contextmanager
def consoles(busy: BusyHome, *options: dict[str, object]) -> Iterator[list[RealTerminal]]:
    """So many at once, each of which shows the pipeline."""
    with ExitStack() as opened:
        terminals = [opened.enter_context(console_at(busy.home.root, **each)) for each in options]
        for terminal in terminals:
            terminal.shows("open", "→ train")
        yield terminals


def answers(terminal: RealTerminal) -> None:
    """Keys are answered, whatever else goes on or stands still: help comes and goes."""
    terminal.press("?")
    terminal.until(lambda grid: "Help:" in grid.text)
    terminal.press("escape")
    terminal.until(lambda grid: "Help:" not in grid.text)


def look_around(*terminals: RealTerminal) -> None:
    """Every screen comes."""
    for number, place in enumerate(PLACES, 1):
        for terminal in terminals:
            terminal.press(str(number))
        for terminal in terminals:
            terminal.until(lambda grid, tab=f" {number} {place.capitalize()} ": in_front(grid, tab))
    for terminal in terminals:
        terminal.press("1")
    for terminal in terminals:
        terminal.shows("→ train")


def in_front(grid: Grid, tab: str) -> bool:
    line = "".join(cell for cell, _ in grid.cells[1])
    return tab in line and "7" in grid.cells[1][line.find(tab) + 1][1].split(";")


def cost(terminal: RealTerminal, key: str, wanted: Callable[[Grid], object]) -> int:
    """Bytes that were written until a key showed what it does."""
    before = terminal.bytes
    terminal.press(key)
    terminal.until(wanted)
    return terminal.bytes - before


def settles_below(terminal: RealTerminal, limit: int) -> None:
    """So few bytes a second are written once what was said and asked before is painted, which is over at some time."""
    end = time.monotonic() + 60
    while (rate := terminal.bytes_in(3)) >= limit:
        assert time.monotonic() < end, rate


# --- terminals ------------------------------------------------------------------------------------


def test_every_terminal_shows_state_by_word_glyph_and_its_own_colours(busy: BusyHome) -> None:
    """Only the sixteen colours that the terminal itself has a say in: right on a light and on a dark ground. Without
    colour the words and glyphs are the same."""
    with consoles(busy, *({"environment": kind} for kind in KINDS.values())) as terminals:
        for terminal in terminals:
            terminal.shows("▲ UNWITNESSED", "× NO SANDBOX", "read-only")
        look_around(*terminals)
        for name, terminal in zip(KINDS, terminals, strict=True):
            terminal.press("?")
            terminal.shows("Help: overview")
            lacking = set(terminal.everything) - FONT
            assert not lacking if name == "linux" else {"●", "╭"} <= lacking
            terminal.press("q")
            terminal.until(lambda grid: "Help: overview" not in grid.text)
            looks = terminal.grid.looks.keys()
            assert bool(looks & COLOURS) == (name != "no colour")
            assert not looks & {"38", "48"}
            asked = [one for one in terminal.grid.others if one.endswith(("p", "u"))]
            assert bool(asked) == (name not in ("linux", "screen")), name
            terminal.press("q")
        assert [terminal.ended() for terminal in terminals] == [0] * len(KINDS)


def test_any_resize_is_survived(busy: BusyHome) -> None:
    """A storm of them, down to almost nothing, on every screen and over a dialog."""
    generator = random.Random(7)
    with console_at(busy.home.root) as terminal:
        terminal.shows("→ train")
        for number in range(64):
            terminal.press(str(number // 8 + 1))
            if number % 8 == 5:
                terminal.press("?")
            terminal.resize(generator.randrange(20, 200), generator.randrange(5, 60))
            time.sleep(generator.choice([0, 0.01, 0.05]))
            if number % 8 == 6:
                terminal.press("escape")
        terminal.press("escape", "escape")
        terminal.resize(20, 5)
        terminal.until(lambda grid: grid.text.strip())
        terminal.resize(80, 24)
        terminal.press("1")
        terminal.shows("1 Overview", "● open", "→ train", "q quit")
        answers(terminal)


# --- how it ends ----------------------------------------------------------------------------------

ENDINGS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)


def test_a_signal_leaves_the_terminal_as_it_was(busy: BusyHome) -> None:
    with ExitStack() as opened:
        terminals = [opened.enter_context(console_at(busy.home.root)) for _ in ENDINGS]
        for terminal, number in zip(terminals, ENDINGS, strict=True):
            terminal.shows("→ train")
            assert termios.tcgetattr(terminal.slave) != terminal.before
            terminal.process.send_signal(number)
            assert terminal.ended() == 128 + number
            assert termios.tcgetattr(terminal.slave) == terminal.before
            terminal.until(lambda grid: not grid.text.strip())  # the alternate screen is left
    assert busy.client.job(busy.job).state == "running"


def test_a_terminal_that_goes_ends_the_console_and_nothing_else(busy: BusyHome) -> None:
    """With a hang-up, or without one, as where the terminal is not the session's own: nothing is left behind, and what
    runs goes on."""
    with consoles(busy, {"controlling": True}, {"controlling": False}) as terminals:
        for terminal in terminals:
            terminal.hang_up()
        assert [terminal.ended() for terminal in terminals] == [128 + signal.SIGHUP] * 2
    assert busy.client.job(busy.job).state == "running"


def test_a_terminal_that_stalls_does_not_keep_the_console_alive(busy: BusyHome) -> None:
    """Nothing reads what it writes: SIGTERM ends it nevertheless."""
    with console_at(busy.home.root, size=(200, 60)) as terminal:
        terminal.shows("→ train")
        terminal.stop_reading()
        for number in range(100):
            terminal.press(str(number % 8 + 1))
            time.sleep(0.01)
        terminal.process.terminate()
        assert terminal.ended() == 128 + signal.SIGTERM


def test_a_signal_while_it_paints_cuts_nothing_off(tmp_path: Path) -> None:
    """Not even where Python is told not to buffer, as images of containers like to: what one write did not take is
    written by the next."""
    script = tmp_path / "painting.py"
    script.write_text(
        "import signal, sys, threading, time\n"
        "from cloister.console.app import ConsoleApp\n"
        "from cloister.errors import Unavailable\n"
        "def paint(app):\n"
        "    writer = app._driver._writer_thread\n"
        "    def change_size():\n"
        "        time.sleep(0.5)\n"
        "        signal.pthread_kill(writer.ident, signal.SIGWINCH)\n"
        "    threading.Thread(target=change_size).start()\n"
        "    app._driver.write('.' * 60_000 + 'all of it')\n"
        "def connect():\n"
        "    raise Unavailable('nobody')\n"
        "ConsoleApp.do_help = paint\n"
        "sys.exit(ConsoleApp(connect).on_terminal())\n"
    )
    with RealTerminal([sys.executable, str(script)], environment={"PYTHONUNBUFFERED": "1"}) as terminal:
        terminal.shows("AUTHORITY AWAY")
        terminal.stop_reading()
        terminal.press("?")
        time.sleep(1)  # the terminal is full, and the signal came
        terminal.start_reading()
        terminal.until(lambda grid: "all of it" in terminal.everything)


def test_without_the_stream_that_it_paints_on_there_is_no_console() -> None:
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "cloister.cli.main", "console"]
    ended = subprocess.run(command, stdin=slave, stdout=slave, stderr=subprocess.PIPE, timeout=300)
    os.close(slave)
    os.close(master)
    assert (ended.returncode, ended.stderr.splitlines()[0]) == (2, b"error: the console needs a terminal")


def test_a_fault_of_the_console_shows_no_value(tmp_path: Path) -> None:
    """What a variable held at that moment may be a key: only the place of the fault is told."""
    script = tmp_path / "fault.py"
    script.write_text(
        "import sys\n"
        "from cloister.console.app import ConsoleApp\n"
        "from cloister.errors import Unavailable\n"
        "def fault(app):\n"
        "    secret = 'clo-' + 'canary'\n"
        "    raise KeyError(secret)\n"
        "def connect():\n"
        "    raise Unavailable('nobody')\n"
        "ConsoleApp.do_help = fault\n"
        "sys.exit(ConsoleApp(connect).on_terminal())\n"
    )
    with RealTerminal([sys.executable, str(script)]) as terminal:
        terminal.shows("AUTHORITY AWAY")
        terminal.press("?")
        assert terminal.ended() == 1
        terminal.shows("The console failed: KeyError at fault.py:6.")
        assert "canary" not in terminal.grid.text and "canary" not in terminal.everything


# --- an authority that does not answer ------------------------------------------------------------


def test_an_authority_that_hangs_is_told_and_taken_up_again(busy: BusyHome) -> None:
    with console_at(busy.home.root) as terminal:
        terminal.shows("● open", "→ train")
        pid = busy.pause()
        try:
            terminal.press("r")
            terminal.shows("× AUTHORITY AWAY", "has not answered for", "Asking again by itself")
            assert "→ train" in terminal.grid.text  # what was known stays
            answers(terminal)
            assert "AUTHORITY AWAY" in terminal.grid.text  # they did not wait for it
        finally:
            os.kill(pid, signal.SIGCONT)
        terminal.shows("● open", "The authority answers again.")


IMPATIENT = """
import sys
from cloister.cli.session import connect
from cloister.console.surroundings import prepare
prepare()
from cloister.console.app import ConsoleApp
sys.exit(ConsoleApp(lambda: connect(answer_s=3.0, silence_s=6.0)).on_terminal())
"""
"""The console with less patience than the command has: a line that is gone is given up sooner."""


def test_a_line_that_stalls_in_the_middle_of_an_answer_is_given_up(busy: BusyHome, tmp_path: Path) -> None:
    """Those connections never say anything again: others are made."""
    line = Line(busy.home, tmp_path / "far")
    try:
        script = tmp_path / "impatient.py"
        script.write_text(IMPATIENT)
        environment = {"CLOISTER_HOME": str(line.home.root)}
        with RealTerminal([sys.executable, str(script)], environment=environment) as terminal:
            terminal.shows("● open", "→ train")
            line.stall(after=700)
            terminal.press("r")
            terminal.shows("× AUTHORITY AWAY")
            answers(terminal)
            assert "AUTHORITY AWAY" in terminal.grid.text
            line.mend()
            terminal.shows("● open", "The authority answers again.")
            terminal.press("2", "r")
            terminal.shows("claims-0000")
    finally:
        line.close()


def test_an_authority_that_dies_comes_back_locked_and_is_unlocked(busy: BusyHome) -> None:
    with console_at(busy.home.root) as terminal:
        terminal.shows("● open", "→ train")
        busy.end_authority()
        terminal.shows("× AUTHORITY AWAY")
        answers(terminal)
        busy.start_authority(unlock=False)
        terminal.shows("▲ LOCKED")
        busy.client.unlock("correct horse battery staple")
        terminal.shows("● open")


# --- much of everything ---------------------------------------------------------------------------


def test_a_thousand_datasets_are_walked_and_filtered(busy: BusyHome) -> None:
    with console_at(busy.home.root, size=(120, 40)) as terminal:
        terminal.shows("1000 datasets")
        terminal.press("2")
        terminal.shows("claims-0000", "claims-0030")
        for _ in range(5):
            before = terminal.grid.text
            page_down = "\x1b[6~"
            assert cost(terminal, page_down, lambda grid, was=before: grid.text != was) < SCREEN_BYTES
        assert cost(terminal, "end", lambda grid: "claims-0999" in grid.text) < SCREEN_BYTES
        terminal.press("/")
        for letter in "0500":
            before = terminal.grid.text
            assert cost(terminal, letter, lambda grid, was=before: grid.text != was) < SCREEN_BYTES
        terminal.until(lambda grid: "claims-0500" in grid.text and "claims-0999" not in grid.text)


def test_a_long_ledger_is_searched_and_an_entry_of_long_ago_is_proved(busy: BusyHome) -> None:
    with console_at(busy.home.root, size=(120, 40)) as terminal:
        terminal.shows("→ train")
        terminal.press("7")
        terminal.shows("run.start")
        terminal.press("f")
        terminal.shows("Search the control ledger")
        terminal.press(*"alice", *["enter"] * 4)
        terminal.until(lambda grid: "alice" in grid.text and "user-" not in grid.text)
        terminal.press("p")
        terminal.shows("● verified")


def test_a_thousand_lines_a_second_leave_it_quick_and_quiet(busy: BusyHome) -> None:
    """The log stands still for nobody: the newest line is shown once a second, and keys come between."""
    with console_at(busy.home.root) as terminal:
        terminal.shows("● open", "→ train")
        busy.say(lines=1000)
        try:
            terminal.press("3")
            terminal.shows("live")
            terminal.press("enter")
            terminal.shows("live", "running")
            for _ in range(5):
                answers(terminal)
            settles_below(terminal, LIVE_BYTES)
            terminal.press("end")
            terminal.shows("of the log, with some words")
        finally:
            busy.say()


def test_numbers_of_a_live_run_cost_few_bytes_and_nothing_costs_fewer(busy: BusyHome) -> None:
    with console_at(busy.home.root, size=(120, 40)) as terminal:
        terminal.shows("→ train")
        busy.say(numbers=20)
        try:
            terminal.press("3")
            terminal.shows("loss (line)")
            settles_below(terminal, LIVE_BYTES)
        finally:
            busy.say()
        settles_below(terminal, IDLE_BYTES)


def test_a_job_is_cancelled_where_it_stands_by_what_it_is(busy: BusyHome) -> None:
    """One that waits its turn, from the Overview: named by its run, and only after its kind was typed."""
    waits = busy.ask_run("waits")

    async def walk() -> None:
        async with console(busy.home.authority_socket) as (app, pilot):
            await until(app, lambda text: "train waits" in text and "number 1 to start" in text)
            await pilot.press("w", "slash", *"waits", "enter", "end", "X")
            asked = await until(app, lambda text: "Cancel a job" in text)
            assert "waits" in asked and waits in asked
            await type_in(pilot, "claims")
            await pilot.press("enter")
            await until(app, lambda text: "that is not its name" in text)
            assert busy.client.job(waits).state == "queued"
            await pilot.press(*["backspace"] * 6)
            await type_in(pilot, "train")
            await pilot.press("enter")
            await until(app, lambda text: "is being stopped" in text)

    asyncio.run(walk())
    end = time.monotonic() + 60
    while busy.client.job(waits).state != "cancelled":
        assert time.monotonic() < end
        time.sleep(0.05)
