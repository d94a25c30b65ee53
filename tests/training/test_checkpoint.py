"""Checkpoints are whole or absent, sealed, and hold nothing that executes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from cloister.errors import Tampered
from cloister.training.checkpoint import CheckpointStore

KEY = bytes(range(32))
MARK = b"a-name-that-must-not-show"


def store(folder: Path, key: bytes | None = KEY, keep: int = 2) -> CheckpointStore:
    return CheckpointStore(
        folder,
        object_id="ad-0123456789ab",
        kind="adapter",
        key=key,
        keep=keep,
        clock=lambda: "2026-01-01T00:00:00Z",
    )


def groups(step: int) -> dict[str, dict[str, torch.Tensor]]:
    torch.manual_seed(step)
    return {
        "adapter": {"a": torch.randn(3, 5), MARK.decode(): torch.randn(7).bfloat16()},
        "trainer": {"step": torch.tensor(float(step)), "rng": torch.arange(9, dtype=torch.uint8)},
    }


def save(into: CheckpointStore, *steps: int) -> None:
    for step in steps:
        into.save(step, groups(step), {"losses": [0.1, 1 / 3], "nested": {"step": step}})


@pytest.mark.parametrize("key", [KEY, None])
def test_what_is_saved_comes_back(tmp_path: Path, key: bytes | None) -> None:
    kept = store(tmp_path / "c", key)
    save(kept, 4)
    found = kept.latest()
    assert found is not None
    assert found.step == 4
    assert found.state == {"losses": [0.1, 1 / 3], "nested": {"step": 4}}
    for group, tensors in groups(4).items():
        assert found.groups[group].keys() == tensors.keys()
        assert all(torch.equal(found.groups[group][name], tensor) for name, tensor in tensors.items())


def test_files_are_sealed_safetensors_and_json(tmp_path: Path) -> None:
    save(store(tmp_path / "c"), 4)
    files = [path for path in (tmp_path / "c").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".safetensors", ".json"}
    assert not any(MARK in path.read_bytes() for path in files)
    save(store(tmp_path / "plain", None), 4)
    assert any(MARK in path.read_bytes() for path in (tmp_path / "plain").rglob("*.safetensors"))


def test_only_the_newest_stay(tmp_path: Path) -> None:
    kept = store(tmp_path / "c", keep=2)
    save(kept, 1, 2, 30, 9)
    assert kept.steps() == [9, 30]
    kept.remove()
    assert kept.steps() == []
    assert kept.latest() is None


@pytest.mark.parametrize("torn", ["no manifest", "temporary name", "empty folder"])
def test_a_torn_one_is_passed_over(tmp_path: Path, torn: str) -> None:
    kept = store(tmp_path / "c", keep=3)
    save(kept, 5, 10)
    newest = tmp_path / "c" / "step-10"
    if torn == "no manifest":
        (newest / "manifest.json").unlink()
    elif torn == "temporary name":
        newest.rename(tmp_path / "c" / ".part-10")
    else:
        shutil.rmtree(newest)
        newest.mkdir()
    said: list[str] = []
    found = kept.latest(said.append)
    assert found is not None
    assert found.step == 5
    assert said == []
    save(kept, 10)
    newest_again = kept.latest()
    assert newest_again is not None
    assert newest_again.step == 10
    assert not list((tmp_path / "c").glob(".part-*"))


def test_every_damaged_byte_is_noticed(tmp_path: Path) -> None:
    kept = store(tmp_path / "c")
    save(kept, 5, 10)
    for path in sorted((tmp_path / "c" / "step-10").iterdir()):
        whole = path.read_bytes()
        for at in (0, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            said: list[str] = []
            found = kept.latest(said.append)
            assert found is not None
            assert found.step == 5
            assert len(said) == 1
            assert "step 10" in said[0]
        path.write_bytes(whole)
    newest = kept.latest()
    assert newest is not None
    assert newest.step == 10


def test_nothing_good_left_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    kept = store(tmp_path / "c")
    save(kept, 5)
    path = tmp_path / "c" / "step-5" / "step-5.adapter.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Tampered, match="adapter"):
        kept.latest()


def test_one_step_does_not_stand_in_for_another(tmp_path: Path) -> None:
    kept = store(tmp_path / "c")
    save(kept, 5, 10)
    shutil.rmtree(tmp_path / "c" / "step-10")
    (tmp_path / "c" / "step-5").rename(tmp_path / "c" / "step-10")
    with pytest.raises(Tampered):
        kept.latest()
