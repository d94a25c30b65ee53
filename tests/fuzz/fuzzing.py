"""Starts a fuzz target in a process of its own, within bounds of time and memory."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

SECONDS = os.environ.get("CLOISTER_FUZZ_SECONDS", "600")
"""How long one target runs in the long form."""


def fuzz(script: Path, target: str, folder: Path, *options: str) -> int:
    """How many inputs were tried; a crash, a hang or more than 1 GiB of memory fails."""
    limits = ["-rss_limit_mb=1024", "-timeout=20", "-max_len=70000", f"-artifact_prefix={folder}/"]
    command = [sys.executable, str(script), target, str(folder / "corpus"), *limits, *options]
    # Through a shell: a child counts its parent's memory as its own peak, and this process may hold torch.
    command = ["/bin/sh", "-c", '"$@"; exit $?', "sh", *command]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    found = sorted(path.name for path in folder.iterdir() if path.is_file())
    assert done.returncode == 0, (found, done.stdout[-2000:], done.stderr[-4000:])
    counts = re.findall(r"^Done (\d+) (?:runs|in)|^#(\d+)", done.stderr, re.MULTILINE)
    return max(int(a or b) for a, b in counts)
