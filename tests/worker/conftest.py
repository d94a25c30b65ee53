"""One tiny dataset and base model, imported as the authority would have it done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

import tiny
import worker_jobs
from cloister.api import ColumnMap, Grant


@dataclass(frozen=True)
class Stored:
    folder: Path
    dataset: Grant
    labelled: Grant
    base: Grant


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    folder = tmp_path_factory.mktemp("objects")
    source = folder / "rows.jsonl"
    source.write_bytes(tiny.lines(tiny.rows(96)))
    table = folder / "rows.csv"
    table.write_text(
        "text,label\n"
        + "".join(f"{row.messages[0].content},{row.label}\n" for row in tiny.rows(80, seed=4, labelled=True))
    )
    columns = ColumnMap(input="text", label="label")
    return Stored(
        folder,
        worker_jobs.import_dataset(folder, source, holdout=0.2),
        worker_jobs.import_dataset(folder, table, holdout=0.25, columns=columns),
        worker_jobs.import_base(folder, tiny.save_base(folder / "tiny")),
    )
