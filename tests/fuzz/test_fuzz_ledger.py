"""The ledger's parsers under a fuzzer: a few seconds, seeded, in `make test`; ten minutes each in `make soak`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("atheris")

SCRIPT = Path(__file__).with_name("fuzz_ledger_parsers.py")
TARGETS = ["tile", "checkpoint", "proof", "journal"]
SECONDS = os.environ.get("CLOISTER_FUZZ_SECONDS", "600")


def fuzz(target: str, folder: Path, *options: str) -> int:
    """How many inputs were tried; a crash, a hang or too much memory fails."""
    limits = ["-rss_limit_mb=1024", "-timeout=20", "-max_len=70000", f"-artifact_prefix={folder}/"]
    command = [sys.executable, str(SCRIPT), target, str(folder / "corpus"), *limits, *options]
    # Through a shell: a child counts its parent's memory as its own peak, and this process may hold torch.
    command = ["/bin/sh", "-c", '"$@"; exit $?', "sh", *command]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    found = sorted(path.name for path in folder.iterdir() if path.is_file())
    assert done.returncode == 0, (found, done.stdout[-2000:], done.stderr[-4000:])
    counts = re.findall(r"^Done (\d+) (?:runs|in)|^#(\d+)", done.stderr, re.MULTILINE)
    return max(int(a or b) for a, b in counts)


@pytest.mark.parametrize("target", TARGETS)
def test_a_few_seconds_find_no_crash(target: str, tmp_path: Path) -> None:
    runs = {"tile": 500, "journal": 1500}.get(target, 20_000)
    assert fuzz(target, tmp_path, "-seed=7", f"-runs={runs}") >= runs


@pytest.mark.soak
@pytest.mark.parametrize("target", TARGETS)
def test_ten_minutes_find_no_crash(target: str, tmp_path: Path) -> None:
    count = fuzz(target, tmp_path, f"-max_total_time={SECONDS}")
    print(f"soak: {target}_inputs={count}")
    assert count > 1000
