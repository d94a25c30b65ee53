"""Forms that begin work: a base model brought in, a merge, a deployment; and what every form's end has in common.

Files are opened here with the operator's own rights, and passed as descriptors.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cloister.console.messages import Said
from cloister.console.screens.dialogs import Field
from cloister.descriptors import close_all
from cloister.errors import CloisterError, InvalidInput
from cloister.shown import describe, visible

if TYPE_CHECKING:
    from pydantic import BaseModel

    from cloister.api import Job
    from cloister.client import Client
    from cloister.console.app import ConsoleApp

Document = TypeVar("Document", bound="BaseModel")


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
