"""The vault's parsers under a fuzzer: a few seconds, seeded, in `make test`; ten minutes each in `make soak`."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzzing import SECONDS, fuzz

pytest.importorskip("atheris")

SCRIPT = Path(__file__).with_name("fuzz_vault_parsers.py")
TARGETS = ["sealed", "manifest", "slot", "share"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_few_seconds_of_fuzzing_find_no_crash(target: str, tmp_path: Path) -> None:
    runs = 10_000 if target == "sealed" else 50_000
    assert fuzz(SCRIPT, target, tmp_path, "-seed=7", f"-runs={runs}") >= runs


@pytest.mark.soak
@pytest.mark.parametrize("target", TARGETS)
def test_ten_minutes_of_fuzzing_find_no_crash(target: str, tmp_path: Path) -> None:
    count = fuzz(SCRIPT, target, tmp_path, f"-max_total_time={SECONDS}")
    print(f"soak: vault_{target}_inputs={count}")
    assert count > 1000
