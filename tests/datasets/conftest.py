"""A dataset made from bytes: what was imported, what was reported, and the reader of what is stored."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from cloister.api import ImportConfig
from cloister.datasets import DatasetReader, ImportSummary, Problem, Row, import_rows
from cloister.vault import ObjectWriter

OBJECT = "ds-000000000001"


@dataclass
class Imported:
    summary: ImportSummary
    problems: list[Problem]
    reader: DatasetReader
    folder: Path


class Importer:
    """Call it with bytes (or a stream), perhaps those of `more` files, and fields of `ImportConfig`. `problems` are the
    last call's."""

    def __init__(self, root: Path, stack: ExitStack) -> None:
        self._root = root
        self._stack = stack
        self._calls = 0
        self.problems: list[Problem] = []

    def __call__(
        self,
        source: bytes | BinaryIO,
        *,
        more: Sequence[bytes] = (),
        rewrite: Callable[[Row], Row] | None = None,
        **config: Any,
    ) -> Imported:
        self._calls += 1
        self.problems = []
        folder = self._root / str(self._calls)
        key = os.urandom(32)
        writer = ObjectWriter(folder, object_id=OBJECT, kind="dataset", key=key)
        stream = io.BytesIO(source) if isinstance(source, bytes) else source
        names = tuple(f"more-{number}" for number in range(1, len(more) + 1))
        settings = ImportConfig(**{"source_name": "rows.txt", "more": names, "holdout": 0.0, **config})
        summary = import_rows(
            stream,
            settings,
            writer,
            report=self.problems.append,
            progress=lambda done, total: None,
            rewrite=rewrite,
            more=list(map(io.BytesIO, more)),
        )
        writer.finish(created_at="2026-01-01T00:00:00Z", counts={"rows": summary.rows})
        reader = self._stack.enter_context(DatasetReader(folder, key=key, object_id=OBJECT))
        return Imported(summary, self.problems, reader, folder)

    def lines(self) -> list[str]:
        return [problem.format("rows.txt") for problem in self.problems]


@pytest.fixture
def bring_in(tmp_path: Path) -> Iterator[Importer]:
    with ExitStack() as stack:
        yield Importer(tmp_path, stack)


@pytest.fixture(scope="session")
def importer_in() -> Callable[[Path, ExitStack], Importer]:
    return Importer
