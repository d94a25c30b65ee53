"""The verb `rows`: some rows of a dataset, as JSON lines on the descriptor of whoever may see them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import msgspec

from cloister.api import JobDocument, RowsConfig
from cloister.datasets.canonical import SPLIT
from cloister.datasets.reader import DatasetReader
from cloister.datasets.split import HOLDOUT
from cloister.errors import InvalidInput
from cloister.worker.verbs import opening

if TYPE_CHECKING:
    from cloister.worker.emit import Emitter


def run(job: JobDocument, emit: Emitter) -> dict[str, Any]:
    """Write the rows that were asked for to `descriptors["output"]`; returns how many.

    Raises:
        InvalidInput: there is no row of such a number, or nowhere to write.
    """
    config = RowsConfig.model_validate(job.config)
    if "output" not in job.descriptors:
        raise InvalidInput("showing rows needs somewhere to write them", where=job.job_id)
    with ExitStack() as stack:
        dataset = stack.enter_context(opening.open_dataset(job, "dataset"))
        require(dataset, config.rows)
        emit.progress("rows", 0, len(config.rows))
        try:
            with os.fdopen(job.descriptors["output"], "wb") as output:
                for number in config.rows:
                    output.write(_line(dataset, number))
                if config.labels:
                    for place, (name, rows) in enumerate(dataset.labels().items(), 1):
                        output.write(
                            msgspec.json.encode({"number": place, "label": name, "rows": rows}) + b"\n"
                        )
        except BrokenPipeError:
            raise InvalidInput("whoever asked has gone", where=job.job_id) from None
    return {"rows": len(config.rows)}


def require(dataset: DatasetReader, numbers: Iterable[int]) -> None:
    """Raises InvalidInput where there is no row of one of these numbers."""
    missing = [number for number in numbers if number >= len(dataset)]
    if missing:
        raise InvalidInput(
            f"there is no row {missing[0]}",
            where=dataset.manifest.object_id,
            remedy=f"Rows are numbered from 0 to {len(dataset) - 1}.",
        )


def side_of(dataset: DatasetReader, number: int) -> str:
    """`train` or `holdout`."""
    with dataset.open(SPLIT) as file:
        return "holdout" if file.read(number, 1)[0] == HOLDOUT else "train"


def _line(dataset: DatasetReader, number: int) -> bytes:
    row = msgspec.to_builtins(dataset[number])
    told = {"row": number, "side": side_of(dataset, number), **row}
    return msgspec.json.encode(told) + b"\n"
