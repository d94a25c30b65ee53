"""The verb `render`: one row as a run would learn it, on the descriptor of whoever may see it."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import msgspec

from cloister.api import JobDocument, RenderConfig
from cloister.datasets.render import render, spans
from cloister.datasets.templates import use_template
from cloister.errors import InvalidInput
from cloister.worker.verbs import opening
from cloister.worker.verbs.rows import require, side_of

if TYPE_CHECKING:
    from cloister.worker.emit import Emitter


def run(job: JobDocument, emit: Emitter) -> dict[str, Any]:
    """Write the row to `descriptors["output"]`, as JSON; returns that it was one.

    `spans` are its text in stretches of one mask, special tokens as they are written; `windows` says in how many
    pieces of `max_length` a plain text is read, `fits` whether a conversation is short enough for a run to take it.

    Raises:
        InvalidInput: there is no row of that number, nowhere to write, or it does not render; by what rule.
    """
    config = RenderConfig.model_validate(job.config)
    if "output" not in job.descriptors:
        raise InvalidInput("showing a row needs somewhere to write it", where=job.job_id)
    with ExitStack() as stack:
        from cloister.models.load import load_tokenizer  # loads torch: only once there is a row to render

        dataset = stack.enter_context(opening.open_dataset(job, "dataset"))
        require(dataset, (config.row,))
        emit.progress("render", 0, 1)
        tokenizer = load_tokenizer(stack.enter_context(opening.open_object(job, "base")))
        use_template(tokenizer, config.template)
        row = dataset[config.row]
        rendered = render(row, tokenizer, loss_on=config.loss_on, number=config.row)
        rendered.supervised[0] = False  # nothing comes before it: no run predicts a row's first token
        tokens, limit = len(rendered.input_ids), config.max_length
        told = {
            "row": config.row,
            "side": side_of(dataset, config.row),
            "template": config.template if row.messages else None,
            "loss_on": config.loss_on if row.messages else None,
            "tokens": tokens,
            "supervised": sum(rendered.supervised),
            "max_length": limit,
            "fits": not row.messages or limit is None or tokens <= limit,
            "windows": 1 if row.messages or limit is None else max(1, -(-(tokens - 1) // (limit - 1))),
            "spans": [
                {"text": span.text, "supervised": span.supervised} for span in spans(rendered, tokenizer)
            ],
        }
        try:
            with os.fdopen(job.descriptors["output"], "wb") as output:
                output.write(msgspec.json.encode(told) + b"\n")
        except BrokenPipeError:
            raise InvalidInput("whoever asked has gone", where=job.job_id) from None
    return {"rows": 1}
