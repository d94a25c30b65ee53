"""The trainer's token ids ≡ the engine's: what was learnt on is what is asked, of a model merged and served."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from tests.engine.test_architectures import NEAR, make, serve_and_compare


def of_a_merged_model(_: Path) -> None:
    """The trainer's tokenizer is the base model's own, the engine has what the merge wrote beside the weights."""
    root = Path(tempfile.mkdtemp(prefix="e-", dir="/tmp"))  # a short name: paths of Unix sockets are bounded
    try:
        found = serve_and_compare(make(root, "qwen3", "qlora"))
    finally:
        shutil.rmtree(root)
    assert found.equal >= 3 and all(one <= NEAR for one in found.apart)


@pytest.mark.slow
def test_trainer_ids_equal_engine_ids(tmp_path: Path) -> None:
    of_a_merged_model(tmp_path)
