"""The verb `report`: a dataset in, numbers about it out. It makes no object."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from cloister.api import JobDocument, ReportConfig
from cloister.datasets.report import Tokens, report_on
from cloister.datasets.templates import use_template
from cloister.errors import Interrupted
from cloister.worker.verbs import opening

if TYPE_CHECKING:
    from cloister.worker.emit import Emitter


def run(job: JobDocument, emit: Emitter) -> dict[str, Any]:
    """Look at the dataset; returns the fields of a `DatasetReport`, numbers only.

    Raises:
        InvalidInput: the template asked for is not one for the base model's tokenizer.
        Interrupted: the job was asked to stop.
    """
    config = ReportConfig.model_validate(job.config)

    def progress(done: int, total: int) -> None:
        if emit.should_stop():
            raise Interrupted("it was stopped", where=job.job_id)
        emit.progress("report", done, total)

    personal = None
    if config.personal:
        from cloister.datasets.personal.replacing import RowRewriter

        personal = RowRewriter(None)
    with ExitStack() as stack:
        dataset = stack.enter_context(opening.open_dataset(job, "dataset"))
        progress(0, len(dataset))
        report = report_on(
            dataset,
            tokens=_tokens(job, config, stack) if "base" in job.inputs else None,
            personal=personal,
            personal_every=config.personal_every,
            quality=config.quality,
            progress=progress,
        )
    return report.model_dump(mode="json")


def _tokens(job: JobDocument, config: ReportConfig, stack: ExitStack) -> Tokens:
    from cloister.models.load import load_tokenizer  # loads torch, which nothing else here needs

    base = stack.enter_context(opening.open_object(job, "base"))
    tokenizer = load_tokenizer(base)
    use_template(tokenizer, config.template)
    return Tokens(tokenizer, max_length=config.max_length, loss_on=config.loss_on)
