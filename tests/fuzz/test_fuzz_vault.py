"""The vault's parsers under a fuzzer: a few seconds, seeded, in `make test`; ten minutes each in `make soak`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("atheris")

SCRIPT = Path(__file__).with_name("fuzz_vault_parsers.py")
TARGETS = ["sealed", "manifest", "slot", "share"]
SECONDS = os.environ.get("CLOISTER_FUZZ_SECONDS", "600")


def fuzz(target: str, folder: Path, *options: str) -> int:
    """How many inputs were tried; a crash, a hang or too much memory fails."""
    limits = ["-rss_limit_mb=1024", "-timeout=20", "-max_len=40000", f"-artifact_prefix={folder}/"]
    command = [sys.executable, str(SCRIPT), target, str(folder / "corpus"), *limits, *options]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    found = sorted(path.name for path in folder.iterdir() if path.is_file())
    assert done.returncode == 0, (found, done.stdout[-2000:], done.stderr[-4000:])
    counts = re.findall(r"^Done (\d+) (?:runs|in)|^#(\d+)", done.stderr, re.MULTILINE)
    return max(int(a or b) for a, b in counts)


@pytest.mark.parametrize("target", TARGETS)
def test_a_few_seconds_of_fuzzing_find_no_crash(target: str, tmp_path: Path) -> None:
    runs = 10_000 if target == "sealed" else 50_000
    assert fuzz(target, tmp_path, "-seed=7", f"-runs={runs}") >= runs


@pytest.mark.soak
@pytest.mark.parametrize("target", TARGETS)
def test_ten_minutes_of_fuzzing_find_no_crash(target: str, tmp_path: Path) -> None:
    count = fuzz(target, tmp_path, f"-max_total_time={SECONDS}")
    print(f"soak: vault_{target}_inputs={count}")
    assert count > 1000
