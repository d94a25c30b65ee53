"""The form that brings data in: one file or several, their columns mapped, tried or imported, and removed afterwards.

Files are opened here with the operator's own rights, and passed as descriptors; no row is read.
"""

from __future__ import annotations

import contextlib
import glob
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from rich.text import Text

from cloister.console.asking import checked, followed, given
from cloister.console.messages import Said
from cloister.console.paint import facts, outside, stack, state, styled
from cloister.console.remedies import with_keys
from cloister.console.screens.dialogs import Field
from cloister.errors import CloisterError, InvalidInput
from cloister.shown import counted, visible
from cloister.sources import open_source

if TYPE_CHECKING:
    from cloister.api import DatasetImport, Job
    from cloister.client import Client
    from cloister.console.app import ConsoleApp
    from cloister.removal import Removable

CLASSES = ("as the settings say", "public", "internal", "confidential", "restricted")
DRY_RUN = "dry run: list problems, write nothing"
KEEP, REMOVE = "keep the file", "overwrite the file once, and remove it"
PROBLEMS = 200
"""Lines of an import's report that are shown."""


def files_in(text: str) -> list[Path]:
    """The files that a line names: one path, or several with commas between, or patterns such as `claims/*.jsonl`.

    What is a path as it stands is that one file, whatever characters it has. Errors: InvalidInput.
    """
    whole = Path(text.strip()).expanduser()
    if whole.exists():
        return [whole]
    found: list[Path] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        path = Path(part).expanduser()
        if path.exists() or not glob.has_magic(part):
            found.append(path)
            continue
        fitting = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        if not fitting:
            raise InvalidInput("no file fits that pattern", where=part)
        found += fitting
    if not found:
        raise InvalidInput("name a file")
    if len(set(found)) < len(found):
        raise InvalidInput("a file is named twice")
    return found


def ask_dataset(console: ConsoleApp) -> None:
    """Files with rows: JSON lines, or tables with their columns named. Several become one dataset."""
    from cloister.api import ColumnMap, DatasetImport, Encoding, ImportConfig, SourceFormat
    from cloister.recipes.column_map import read_column_map

    def go_on(values: dict[str, str]) -> None:
        paths: list[Path] = []

        def make() -> DatasetImport:
            paths[:] = files_in(values["file"])
            columns = read_column_map(Path(values["map"]).expanduser()) if values["map"] else {}
            columns |= {name: values[name] for name in ("input", "output", "label") if values[name]}
            config = checked(
                ImportConfig,
                source_name=paths[0].name,
                more=tuple(path.name for path in paths[1:]),
                format=values["format"],
                encoding=values["encoding"],
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
            console.say(f"{'Reading' if request.dry_run else 'Bringing in'} {_named(paths)} …", "info")
            told = _tried if request.dry_run else _imported
            console.request(
                lambda client: import_files(client, paths, request, console.post_message, remove=remove),
                lambda done: told(console, request.name, *done),
                doing=f"import {_named(paths)}",
            )

        if values["after"] == REMOVE and not request.dry_run:
            _confirm_removal(console, paths, request.name, lambda: go(remove=True))
        else:
            go()

    console.ask_form(
        "Bring data in, sealed",
        [
            Field("file", "File", help="on this machine; several: a.csv, b.csv or data/*.csv", needed=True),
            Field("name", "Name", help="a-z 0-9 . _ -", needed=True),
            Field("how", "Do", choices=("import", DRY_RUN), kept=False),
            Field("class", "Classification", choices=CLASSES),
            Field("format", "Format", choices=get_args(SourceFormat)),
            Field("encoding", "Encoding", choices=get_args(Encoding), help="of text"),
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


def _named(paths: Sequence[Path]) -> str:
    return paths[0].name if len(paths) == 1 else f"{len(paths)} files"


def _confirm_removal(
    console: ConsoleApp, paths: Sequence[Path], dataset: str, then: Callable[[], None]
) -> None:
    """What removing the files promises where they lie; then the name of the one, or of the dataset of several, to be
    typed."""
    from cloister.removal import Removable

    promised: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    try:
        for path in paths:
            with Removable(path) as removable:
                ground = removable.ground
            promised.setdefault((ground.filesystem, tuple(ground.words)), []).append(path.name)
    except CloisterError as error:
        console.say(error.message, "bad")
        return
    lines = []
    for (filesystem, words), names in promised.items():
        which = "It lies" if len(paths) == 1 else f"{', '.join(visible(name, limit=60) for name in names)}:"
        lines += [styled(f"{which} on {filesystem}.", "bold"), *(Text(sentence) for sentence in words)]
    console.confirm(
        f"Remove {visible(_named(paths), limit=60)} after the import",
        stack(*lines, Text("What the import leaves out (columns that no row needs) goes along.")),
        paths[0].name if len(paths) == 1 else dataset,
        "import, and then remove",
        then,
    )


def import_files(
    client: Client,
    paths: Sequence[Path],
    request: DatasetImport,
    post: Callable[[Said], object],
    *,
    remove: bool = False,
) -> tuple[Job, list[str]]:
    """Import, telling how far it is; then `remove` the files, if asked, and if no row of them was left out.

    Returns the job and the worker's problems, `file:line: field: rule`, with why a file was not removed.
    """
    from cloister.removal import Removable

    with contextlib.ExitStack() as opened:
        removables = [opened.enter_context(Removable(path)) for path in paths] if remove else []
        descriptors = [_opened(path, opened) for path in paths]
        for removable, descriptor in zip(removables, descriptors, strict=False):
            removable.check_same(descriptor)
        reading, writing = os.pipe2(os.O_CLOEXEC)
        problems: list[str] = []
        reader = threading.Thread(target=_collect, args=(reading, problems), daemon=True)
        reader.start()
        try:
            roles = {f"source:{n}" if n else "source": each for n, each in enumerate(descriptors)}
            job = client.import_dataset(request, {**roles, "report": writing})
        finally:
            os.close(writing)
        job = followed(client, job, post)
        reader.join(timeout=5)
        if job.state == "done":
            for removable, descriptor in zip(removables, descriptors, strict=False):
                problems += _removed(client, removable, descriptor, job)
    return job, problems


def _opened(path: Path, opened: contextlib.ExitStack) -> int:
    """A descriptor that the stack closes. Errors: InvalidInput."""
    descriptor = open_source(path, "Name its files, such as FOLDER/*.csv.")
    opened.callback(os.close, descriptor)
    return descriptor


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
            [
                ("try", with_keys(remedy)),
                ("then", "the same key: what was typed is kept" if not well else None),
            ]
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
            ("try", with_keys(result.get("remedy"))),
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
