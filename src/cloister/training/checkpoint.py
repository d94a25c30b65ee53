"""Checkpoints of a run: sealed safetensors and JSON, whole or not there at all, newest good one first.

Knows tensors by name and a JSON state, not what they mean. Nothing it reads can execute code.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from torch import Tensor

from cloister.errors import CloisterError, NotFound, Tampered
from cloister.models.tensors import SafetensorsReader, write_tensors
from cloister.modes import make_folder
from cloister.vault import ObjectReader, ObjectWriter
from cloister.vault.files import make_folders

Groups = Mapping[str, Mapping[str, Tensor]]
"""Tensors by group (a file each) and name."""

_PART = ".part-"
_STEP = "step-"


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint as read back: every tensor on the CPU."""

    step: int
    state: dict[str, Any]
    groups: dict[str, dict[str, Tensor]]


class CheckpointStore:
    """The checkpoints of one run in `folder`, one folder `step-<n>` each.

    A checkpoint is written under a temporary name, its manifest last, made durable, and only then
    renamed; `latest` looks at complete ones alone and falls back to the one before where one is damaged.
    The file names carry the step and are bound into the seal, so no file stands in for another step's.

    Args:
        folder: where they lie; made at the first save.
        object_id, kind, version, key: of the object that the run makes; key None leaves files unsealed.
        keep: how many complete ones stay.
        clock: the time for manifests, ISO 8601.
    """

    def __init__(
        self,
        folder: Path,
        *,
        object_id: str,
        kind: str,
        version: int = 1,
        key: bytes | None,
        keep: int = 2,
        clock: Callable[[], str] = lambda: datetime.now(UTC).isoformat(),
    ) -> None:
        self.folder = folder
        self._identity: dict[str, Any] = {
            "object_id": object_id,
            "kind": kind,
            "version": version,
            "key": key,
        }
        self._object_id, self._key = object_id, key
        self._keep = keep
        self._clock = clock

    def steps(self) -> list[int]:
        """The steps of the complete checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        found = []
        for entry in self.folder.iterdir():
            number = entry.name.removeprefix(_STEP)
            if entry.name.startswith(_STEP) and number.isdigit() and (entry / "manifest.json").is_file():
                found.append(int(number))
        return sorted(found)

    def save(self, step: int, groups: Groups, state: Mapping[str, Any]) -> None:
        """Write the checkpoint of `step`, then remove those that are no longer kept."""
        make_folders(self.folder)
        final = self.folder / f"{_STEP}{step}"
        part = self.folder / f"{_PART}{step}"
        for torn in self.folder.glob(f"{_PART}*"):
            shutil.rmtree(torn)
        make_folder(part)
        writer = ObjectWriter(part, **self._identity)
        for group, tensors in groups.items():
            with writer.create(_file(step, group)) as out:
                write_tensors(out, tensors)
        with writer.create(f"{_STEP}{step}.state.json") as out:
            out.write(msgspec.json.encode({"groups": list(groups), **state}))
        writer.finish(created_at=self._clock(), counts={"step": step})
        shutil.rmtree(final, ignore_errors=True)
        part.rename(final)
        _fsync(self.folder)
        for old in self.steps()[: -self._keep]:
            shutil.rmtree(self.folder / f"{_STEP}{old}", ignore_errors=True)

    def latest(self, on_damaged: Callable[[str], None] = lambda message: None) -> Checkpoint | None:
        """The newest checkpoint that opens whole; None where there is none.

        Torn ones (no manifest) are passed over in silence, damaged ones with a word to `on_damaged`.

        Raises:
            Tampered: there are checkpoints, and every one of them is damaged.
        """
        failure: CloisterError | None = None
        for step in reversed(self.steps()):
            try:
                return self._read(step)
            except (Tampered, NotFound) as error:
                failure = error
                on_damaged(
                    f"The checkpoint of step {step} is damaged ({error.where}); the one before is used."
                )
        if failure is not None:
            raise Tampered(
                "No checkpoint of this run is whole.", where=failure.where, remedy="Start the run again."
            )
        return None

    def remove(self) -> None:
        """Remove every checkpoint, torn ones too."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self, step: int) -> Checkpoint:
        folder = self.folder / f"{_STEP}{step}"
        reader = ObjectReader(folder, key=self._key, object_id=self._object_id)
        reader.check(full=True)
        with reader.open(f"{_STEP}{step}.state.json") as file:
            state = msgspec.json.decode(file.read(0, file.size))
        groups = {}
        for group in state.pop("groups"):
            with SafetensorsReader.of(reader, [_file(step, group)]) as tensors:
                groups[group] = dict(tensors.stream())
        return Checkpoint(step=step, state=state, groups=groups)


def _file(step: int, group: str) -> str:
    return f"{_STEP}{step}.{group}.safetensors"


def _fsync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
