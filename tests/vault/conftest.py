"""Where the vectors that others wrote lie, and what these tests share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from cloister.vault import ArgonParams

settings.register_profile("vault", settings.get_profile("tests"), max_examples=40)
settings.load_profile("vault")


@pytest.fixture(scope="session")
def vectors() -> Callable[[str], list[dict[str, Any]]]:
    """The tests of a Wycheproof file, or a skip that says why."""
    shared = Path(os.environ.get("CLOISTER_SHARED", Path(__file__).resolve().parents[3] / "shared"))

    def load(name: str) -> list[dict[str, Any]]:
        path = shared / "vectors" / name
        if not path.is_file():
            pytest.skip(f"no test vectors at {path}")
        return [test for group in json.loads(path.read_text())["testGroups"] for test in group["tests"]]

    return load


@pytest.fixture(scope="session")
def argon() -> ArgonParams:
    """The cheapest key derivation that a slot may ask for."""
    return ArgonParams(memory_kib=8 * 1024, iterations=1, lanes=1)
