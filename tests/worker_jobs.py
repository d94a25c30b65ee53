"""Jobs as the authority would write them, run in this process: import, base, train, evaluate, merge."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloister.api import Grant, ImportConfig, JobDocument
from cloister.vault import ObjectReader
from cloister.worker.verbs import base as base_verb
from cloister.worker.verbs import import_ as import_verb

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id(prefix: str) -> str:
    return prefix + "-" + "".join(secrets.choice(ALPHABET.replace("i", "")) for _ in range(12))


@dataclass
class Recorder:
    """Stands where the worker's emitter stands, and remembers."""

    stop_when: Callable[[Recorder], bool] = lambda recorder: False
    progressed: list[tuple[str, int, int]] = field(default_factory=list)
    measured: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    noticed: list[tuple[str, str]] = field(default_factory=list)

    def progress(self, stage: str, done: int, total: int) -> None:
        self.progressed.append((stage, done, total))

    def metrics(self, step: int, values: dict[str, float]) -> None:
        self.measured.append((step, values))

    def notice(self, level: str, message: str) -> None:
        self.noticed.append((level, message))

    def should_stop(self) -> bool:
        return self.stop_when(self)


def output(folder: Path, kind: str, prefix: str, *, sealed: bool = True) -> Grant:
    object_id = new_id(prefix)
    key = base64.b64encode(secrets.token_bytes(32)).decode() if sealed else None
    return Grant(object_id=object_id, kind=kind, path=str(folder / object_id), key=key)


def as_input(grant: Grant) -> Grant:
    """An output, granted to the next job."""
    with ObjectReader(Path(grant.path), key=raw_key(grant)) as reader:
        return grant.model_copy(update={"manifest_sha256": reader.manifest.sha256})


def raw_key(grant: Grant) -> bytes | None:
    return base64.b64decode(grant.key) if grant.key else None


def job(verb: str, config: Any, out: Grant | None, **more: Any) -> JobDocument:
    dumped = config if isinstance(config, dict) else config.model_dump(mode="json")
    return JobDocument(job_id=new_id("jb"), verb=verb, config=dumped, output=out, **more)


def import_dataset(folder: Path, source: Path, *, sealed: bool = True, **config: Any) -> Grant:
    out = output(folder, "dataset", "ds")
    descriptor = os.open(source, os.O_RDONLY)
    document = job(
        "import", ImportConfig(source_name=source.name, **config), out, descriptors={"source": descriptor}
    )
    import_verb.run(document, Recorder())
    return as_input(out)


def import_base(folder: Path, source: Path) -> Grant:
    out = output(folder, "base", "bm", sealed=False)
    names = sorted(path.name for path in source.iterdir() if path.is_file())
    descriptors = {f"file:{i}": os.open(source / name, os.O_RDONLY) for i, name in enumerate(names)}
    base_verb.run(job("base", {"files": names}, out, descriptors=descriptors), Recorder())
    return as_input(out)
