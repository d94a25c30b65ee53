"""Plaintext exists in memory only: a canary in the dataset is in no file after a whole run."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.pipeline.conftest import CANARY, Pipeline

from cloister.demo.search import find_leaks

pytestmark = pytest.mark.slow


def test_the_canary_is_in_no_file(pipeline: Pipeline) -> None:
    places = [
        pipeline.appliance.home.root,
        Path("/dev/shm"),
        Path("/var/tmp"),
        Path.home() / ".cache" / "vllm",
    ]
    assert find_leaks(CANARY, places) == []


@pytest.mark.parametrize("form", ["plain", "utf-16", "base64"])
def test_the_search_finds_a_planted_leak(pipeline: Pipeline, form: str) -> None:
    import base64

    text = f"some text before {CANARY} and after"
    data = {
        "plain": text.encode(),
        "utf-16": text.encode("utf-16-le"),
        "base64": base64.b64encode(b"x" + text.encode()),
    }[form]
    planted = pipeline.appliance.home.logs / "planted"
    planted.write_bytes(b"\0" * (5 << 20) + data)
    try:
        assert [leak.path for leak in find_leaks(CANARY, [pipeline.appliance.home.root])] == [planted]
    finally:
        planted.unlink()
