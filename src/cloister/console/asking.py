"""Forms that begin work: data or a base model brought in, a merge, a deployment.

Files are opened here with the operator's own rights, and passed as descriptors; no row is read.
"""

from __future__ import annotations

import contextlib
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
from cloister.descriptors import close_all
from cloister.errors import CloisterError, InvalidInput
from cloister.shown import counted, describe, visible

if TYPE_CHECKING:
    from pydantic import BaseModel

    from cloister.api import DatasetImport, Job
    from cloister.client import Client
    from cloister.console.app import ConsoleApp
    from cloister.removal import Removable

Document = TypeVar("Document", bound="BaseModel")
CLASSES = ("as the settings say", "public", "internal", "confidential", "restricted")
DRY_RUN = "dry run: list problems, write nothing"
KEEP, REMOVE = "keep the file", "overwrite the file once, and remove it"
PROBLEMS = 200
"""Lines of an import's report that are shown."""


def checked(kind: type[Document], /, **values: Any) -> Document:
    """The document. Errors: InvalidInput, with each field that does not fit, and without its value."""
    from pydantic import ValidationError  # loaded when it is needed: the first screen is sooner there

    try:
        return kind.model_validate(values)
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise InvalidInput(told) from None


def given(console: ConsoleApp, make: Callable[[], Document]) -> Document | None:
    """What the form says, or None where it does not fit: the form comes again then, and says why."""
    try:
        return make()
    except (InvalidInput, ValueError) as error:
        console.mistaken(str(error.message if isinstance(error, CloisterError) else "not a number"))
        return None


def ask_dataset(console: ConsoleApp) -> None:
    """A file with rows: JSON lines, or a table with its columns named."""
    from cloister.api import ColumnMap, DatasetImport, ImportConfig, SourceFormat
    from cloister.recipes.column_map import read_column_map

    def go_on(values: dict[str, str]) -> None:
        path = Path(values["file"]).expanduser()

        def make() -> DatasetImport:
            columns = read_column_map(Path(values["map"]).expanduser()) if values["map"] else {}
            columns |= {name: values[name] for name in ("input", "output", "label") if values[name]}
            config = checked(
                ImportConfig,
                source_name=path.name,
                format=values["format"],
                columns=checked(ColumnMap, **columns) if columns else None,
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
        if request is None:
            return

        def go(*, remove: bool = False) -> None:
            console.say(f"{'Reading' if request.dry_run else 'Bringing in'} {path.name} …", "info")
            told = _tried if request.dry_run else _imported
            console.request(
                lambda client: import_file(client, path, request, console.post_message, remove=remove),
                lambda done: told(console, request.name, *done),
                doing=f"import {path.name}",
            )

        if values["after"] == REMOVE and not request.dry_run:
            _confirm_removal(console, path, lambda: go(remove=True))
        else:
            go()

    console.ask_form(
        "Bring data in, sealed",
        [
            Field("file", "File", help="on this machine, read with your own rights", needed=True),
            Field("name", "Name", help="a-z 0-9 . _ -", needed=True),
            Field("how", "Do", choices=("import", DRY_RUN), kept=False),
            Field("class", "Classification", choices=CLASSES),
            Field("format", "Format", choices=get_args(SourceFormat)),
            Field("input", "Table: input column"),
            Field("output", "Table: answer column"),
            Field("label", "Table: class column", help="instead of an answer"),
            Field("map", "Mapping file", help="YAML: system, context, text, messages, roles, groups, ignore"),
            Field("after", "After it", choices=(KEEP, REMOVE), kept=False),
            Field("holdout", "Held out", "0.1", help="share of rows kept apart for measuring", number=float),
            Field("dropped", "Bad rows at most", "0", help="0: one bad row refuses the import", number=int),
        ],
        go_on,
    )


def _confirm_removal(console: ConsoleApp, path: Path, then: Callable[[], None]) -> None:
    """What removing the file promises where it lies, and its name to be typed."""
    from cloister.removal import Removable

    try:
        with Removable(path) as removable:
            ground = removable.ground
    except CloisterError as error:
        console.say(error.message, "bad")
        return
    console.confirm(
        f"Remove {visible(path.name, limit=60)} after the import",
        stack(
            styled(f"It lies on {ground.filesystem}.", "bold"),
            *(Text(sentence) for sentence in ground.words),
            Text("What the import leaves out (columns that no row needs) goes with it."),
        ),
        path.name,
        "import it, and then remove it",
        then,
    )


def import_file(
    client: Client,
    path: Path,
    request: DatasetImport,
    post: Callable[[Said], object],
    *,
    remove: bool = False,
) -> tuple[Job, list[str]]:
    """Import, telling how far it is; then `remove` the file, if asked, and if no row of it was left out.

    Returns the job and the worker's problems, `file:line: field: rule`, with why the file was not removed.
    """
    from cloister.removal import Removable

    with contextlib.ExitStack() as opened:
        removable = opened.enter_context(Removable(path)) if remove else None
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        opened.callback(os.close, descriptor)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise InvalidInput("is a folder, not a file", where=str(path))
        if removable is not None:
            removable.check_same(descriptor)
        reading, writing = os.pipe2(os.O_CLOEXEC)
        problems: list[str] = []
        reader = threading.Thread(target=_collect, args=(reading, problems), daemon=True)
        reader.start()
        try:
            job = client.import_dataset(request, {"source": descriptor, "report": writing})
        finally:
            os.close(writing)
        job = followed(client, job, post)
        reader.join(timeout=5)
        if removable is not None and job.state == "done":
            problems += _removed(client, removable, descriptor, job)
    return job, problems


def _removed(client: Client, removable: Removable, descriptor: int, job: Job) -> list[str]:
    """Remove a source whose rows are sealed; why not, where it stays."""
    name = visible(removable.path.name)
    if job.result.get("dropped"):
        return [f"{name}: rows were left out and stand nowhere else, so the file was not removed"]
    try:
        removable.go(
            descriptor,
            lambda on: client.source_goes(job.subject or "", on.filesystem, overwritten=on.overwrite),
        )
    except CloisterError as error:
        return [f"{name}: the rows are in, but the file was not removed: {error.message}"]
    return []


def _collect(descriptor: int, into: list[str]) -> None:
    with os.fdopen(descriptor, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if len(into) < PROBLEMS:
                into.append(line.rstrip("\n"))


def _imported(console: ConsoleApp, name: str, job: Job, problems: list[str]) -> bool:
    well = job.error is None and job.state == "done"
    if well:
        read = f"{job.result.get('source_format', '?')}, {job.result.get('task', '?')}"
        console.say(f"{name} is in, sealed: {counted(job.result.get('rows'), 'row')} ({read}).")
    else:
        why = job.error.detail if job.error else f"it was {job.state}"
        console.say(f"{name} is not in: {why}", "bad")
    if problems:
        remedy = job.error.remedy if job.error is not None else None
        told = facts(
            [("try", remedy), ("then", "the same key: what was typed is kept" if not well else None)]
        )
        console.tell(f"Problems in {visible(name)}", stack(told, _listed(problems)))
    return well


def _tried(console: ConsoleApp, name: str, job: Job, problems: list[str]) -> bool:
    """What an import would do. What the form said is kept for it."""
    result = job.result
    if job.error is not None or job.state != "done":
        console.say(f"{name}: {job.error.detail if job.error else f'it was {job.state}'}", "bad")
        return False
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
    return False


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
        close_all(files.values())
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
            Field("length", "Longest", "1024", help="prompt and answer together, in tokens", number=int),
        ],
        go_on,
    )
