"""A real launcher in its own process, with a program of the test's choice."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from launcher_process import Running, answer  # type: ignore[import-not-found]

from cloister.launcher.client import LauncherClient


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """`launch(code)` starts a launcher whose sandboxes run `code`; without it they run real workers."""
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    started: list[Running] = []

    def start(code: str | None = None, *options: str, home: Path | None = None, wait: bool = True) -> Running:
        home = home or tmp_path / f"home{len(started)}"
        mark = f"mark-{os.urandom(8).hex()}"
        command = [sys.executable, "-m", "cloister.launcher", "--home", str(home), *options]
        if code is not None:
            command += ["--program", sys.executable, "-P", "-c", f"# {mark}\n{code}"]
        else:
            mark = str(home)
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        running = Running(home, process, LauncherClient(home / "run" / "launcher" / "launcher.sock"), mark)
        started.append(running)
        if wait:
            asyncio.run(answer(running))
        return running

    yield start
    for running in started:
        if running.process.poll() is None:
            running.process.terminate()
        running.process.communicate(timeout=120)
        assert running.wait_for_no_processes() == []
