"""Forms that begin work: data or a base model brought in, a merge, a deployment.

Files are opened here with the operator's own rights, and passed as descriptors; no row is read.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from rich.text import Text

from cloister.console.messages import Said
from cloister.console.paint import facts, outside, stack, state, styled
from cloister.console.screens.dialogs import Field
from cloister.errors import CloisterError, InvalidInput
from cloister.shown import describe, visible

if TYPE_CHECKING:
    from pydantic import BaseModel

    from cloister.api import DatasetImport, Job
    from cloister.client import Client
    from cloister.console.app import ConsoleApp

Document = TypeVar("Document", bound="BaseModel")
CLASSES = ("as the settings say", "public", "internal", "confidential", "restricted")
DRY_RUN = "dry run: list problems, write nothing"
PROBLEMS = 200
"""Lines of an import's report that are shown."""


def checked(kind: type[Document], **values: Any) -> Document:
    """The document. Errors: InvalidInput, with each field that does not fit, and without its value."""
    from pydantic import ValidationError  # loaded when it is needed: the first screen is sooner there

    try:
        return kind.model_validate(values)
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise InvalidInput(told) from None


def given(console: ConsoleApp, make: Callable[[], Document]) -> Document | None:
    """What the form says, or None where it does not fit, which is said."""
    try:
        return make()
    except (InvalidInput, ValueError) as error:
        console.say(str(error.message if isinstance(error, CloisterError) else "not a number"), "bad")
        return None


def ask_dataset(console: ConsoleApp) -> None:
    """A file with rows: JSON lines, or a table with its columns named."""
    from cloister.api import ColumnMap, DatasetImport, ImportConfig, SourceFormat

    def go_on(values: dict[str, str]) -> None:
        path = Path(values["file"]).expanduser()

        def make() -> DatasetImport:
            columns = None
            if values["input"]:
                columns = checked(
                    ColumnMap,
                    input=values["input"],
                    output=values["output"] or None,
                    label=values["label"] or None,
                )
            config = checked(
                ImportConfig,
                source_name=path.name,
                format=values["format"],
                columns=columns,
                holdout=float(values["holdout"]),
                max_dropped=int(values["dropped"]),
            )
            kept = values["class"]
            return checked(
                DatasetImport,
                name=values["name"],
                config=config,
                classification=kept if kept != CLASSES[0] else None,
                dry_run=values["how"] == DRY_RUN,
            )

        request = given(console, make)
        if request is not None:
            console.say(f"{'Reading' if request.dry_run else 'Bringing in'} {path.name} …", "info")
            told = _tried if request.dry_run else _imported
            console.request(
                lambda client: import_file(client, path, request),
                lambda done: told(console, request.name, *done),
                doing=f"import {path.name}",
            )

    console.ask_form(
        "Bring data in, sealed",
        [
            Field("file", "File", help="on this machine, read with your own rights", needed=True),
            Field("name", "Name", help="a-z 0-9 . _ -", needed=True),
            Field("how", "Do", choices=("import", DRY_RUN)),
            Field("class", "Classification", choices=CLASSES),
            Field("format", "Format", choices=get_args(SourceFormat)),
            Field("input", "Table: input column"),
            Field("output", "Table: answer column"),
            Field("label", "Table: class column", help="instead of an answer"),
            Field("holdout", "Held out", "0.1", help="share of rows kept apart for measuring"),
            Field("dropped", "Bad rows at most", "0", help="0: one bad row refuses the import"),
        ],
        go_on,
    )


def import_file(client: Client, path: Path, request: DatasetImport) -> tuple[Job, list[str]]:
    """Import, and wait for it. Returns the job and the worker's problems, `file:line: field: rule`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidInput("is a folder, not a file", where=str(path))
    reading, writing = os.pipe()
    problems: list[str] = []
    reader = threading.Thread(target=_collect, args=(reading, problems), daemon=True)
    reader.start()
    try:
        job = client.import_dataset(request, {"source": descriptor, "report": writing})
    finally:
        os.close(descriptor)
        os.close(writing)
    *_, job = client.watch_job(job.job_id)
    reader.join(timeout=5)
    return job, problems


def _collect(descriptor: int, into: list[str]) -> None:
    with os.fdopen(descriptor, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if len(into) < PROBLEMS:
                into.append(line.rstrip("\n"))


def _imported(console: ConsoleApp, name: str, job: Job, problems: list[str]) -> None:
    if job.error is None and job.state == "done":
        console.say(f"{name} is in, sealed: {job.result.get('rows', '?')} rows.")
    else:
        why = job.error.detail if job.error else f"it was {job.state}"
        console.say(f"{name} is not in: {why}", "bad")
    if problems:
        console.tell(f"Problems in {visible(name)}", _listed(problems))


def _tried(console: ConsoleApp, name: str, job: Job, problems: list[str]) -> None:
    """What an import would do."""
    result = job.result
    if job.error is not None or job.state != "done":
        console.say(f"{name}: {job.error.detail if job.error else f'it was {job.state}'}", "bad")
        return
    well = bool(result.get("would_import"))
    console.say(
        f"{name} {'would be imported' if well else 'would be refused'}; nothing was written.",
        "good" if well else "warn",
    )
    told = facts(
        [
            ("it would be", state("imported", "good") if well else state("refused", "bad")),
            ("because", result.get("refused")),
            ("try", result.get("remedy")),
            ("good rows", result.get("rows")),
            ("bad rows", result.get("bad_rows")),
            ("to train on", result.get("train_rows")),
            ("held out", result.get("holdout_rows")),
            ("format", result.get("source_format")),
            ("task", result.get("task")),
        ]
    )
    console.tell(f"A dry run of {visible(name)}", stack(told, _listed(problems)))


def _listed(problems: list[str]) -> Text:
    if not problems:
        return Text("No problem was found.")
    note = styled("No row is shown here, only where it is.\n", "dim")
    return note.append_text(Text("\n").join([outside(line, 300) for line in problems]))


def ask_base(console: ConsoleApp) -> None:
    """A folder as Hugging Face lays it out."""

    def go_on(values: dict[str, str]) -> None:
        folder = Path(values["folder"]).expanduser()
        console.say(f"Bringing {folder.name} in …", "info")
        console.request(
            lambda client: import_base(client, folder, values["name"], console.post_message),
            lambda job: ended(console, job, f"{values['name']} is in."),
            doing=f"import {folder.name}",
        )

    console.ask_form(
        "Add a base model",
        [
            Field("folder", "Folder", help="config.json, tokenizer files, safetensors", needed=True),
            Field("name", "Name", help="a-z 0-9 . _ -", needed=True),
        ],
        go_on,
    )


def import_base(client: Client, folder: Path, name: str, post: Callable[[Said], object]) -> Job:
    """Import, and wait for it, telling how far it is."""
    from cloister.api import BaseImport, BaseImportConfig
    from cloister.sources import open_base_folder

    files = open_base_folder(folder)
    try:
        request = checked(BaseImport, name=name, config=BaseImportConfig(files=tuple(files)))
        job = client.import_base(request, {f"file:{i}": fd for i, fd in enumerate(files.values())})
    finally:
        for descriptor in files.values():
            os.close(descriptor)
    return followed(client, job, post)


def followed(client: Client, job: Job, post: Callable[[Said], object]) -> Job:
    """The job when it ended, telling how far it is until then."""
    for now in client.watch_job(job.job_id):
        post(Said(describe(now)))
        job = now
    return job


def ended(console: ConsoleApp, job: Job, well: str) -> bool:
    """Say how it ended; whether that was well."""
    if job.state == "done":
        console.say(well)
        return True
    console.say(f"{job.verb} {job.state}: {job.error.detail if job.error else ''}", "bad")
    return False


def ask_merge(console: ConsoleApp, run: str) -> None:
    from cloister.api import MergeRequest

    def go_on(values: dict[str, str]) -> None:
        request = given(console, lambda: checked(MergeRequest, name=values["name"], run=run))
        if request is not None:
            console.request(
                lambda client: client.merge(request),
                lambda job: console.say(
                    f"{request.name} is being merged ({job.job_id}). 4 shows it when done."
                ),
                doing=f"merge {run}",
            )

    console.ask_form(
        f"Merge the adapter of {visible(run)}",
        [Field("name", "Name of the model", run, help="a-z 0-9 . _ -", needed=True)],
        go_on,
    )


def ask_serve(console: ConsoleApp, model: str | None = None) -> None:
    """Serve a merged model; where policy asks for it, that waits for somebody's approval."""
    from cloister.api import ServeConfig, ServeRequest

    models = tuple(dict.fromkeys(one.name for one in console.picture.models))
    if not models:
        console.say("There is no merged model yet: 3 shows the runs, m merges one.", "warn")
        return

    def go_on(values: dict[str, str]) -> None:
        def make() -> ServeRequest:
            config = checked(ServeConfig, max_model_len=int(values["length"]))
            return checked(ServeRequest, name=values["name"], model=values["model"], config=config)

        request = given(console, make)
        if request is not None:
            console.request(
                lambda client: client.serve(request),
                lambda one: console.say(f"{one.name} ({one.deployment_id}) is {one.state}. 5 shows it."),
                doing=f"serve {request.name}",
            )

    console.ask_form(
        "Serve a merged model",
        [
            Field("model", "Model", model or "", choices=models),
            Field("name", "Name", model or models[0], help="what clients ask for as `model`", needed=True),
            Field("length", "Longest", "1024", help="prompt and answer together, in tokens"),
        ],
        go_on,
    )
