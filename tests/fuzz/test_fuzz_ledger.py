"""The ledger's parsers under a fuzzer: a few seconds, seeded, in `make test`; ten minutes each in `make soak`."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzzing import SECONDS, fuzz

pytest.importorskip("atheris")

SCRIPT = Path(__file__).with_name("fuzz_ledger_parsers.py")
TARGETS = ["tile", "checkpoint", "proof", "journal"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_few_seconds_find_no_crash(target: str, tmp_path: Path) -> None:
    runs = {"tile": 500, "journal": 1500}.get(target, 20_000)
    assert fuzz(SCRIPT, target, tmp_path, "-seed=7", f"-runs={runs}") >= runs


@pytest.mark.soak
@pytest.mark.parametrize("target", TARGETS)
def test_ten_minutes_find_no_crash(target: str, tmp_path: Path) -> None:
    count = fuzz(SCRIPT, target, tmp_path, f"-max_total_time={SECONDS}")
    print(f"soak: {target}_inputs={count}")
    assert count > 1000
