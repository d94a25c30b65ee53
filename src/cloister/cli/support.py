"""`cloister support`: what somebody who helps from outside may see, without secrets and without names."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Annotated

import typer

from cloister.cli.output import JsonFlag, print_json, say, size, visible
from cloister.cli.session import connect

app = typer.Typer(no_args_is_help=True)
PROGRAMS = ("authority", "launcher", "gateway")


@app.callback()
def support() -> None:
    """What somebody who helps from outside may see."""


@app.command()
def bundle(
    file: Annotated[Path, typer.Argument(help="A new file, such as support.tar.gz.", show_default=False)],
    json: JsonFlag = False,
) -> None:
    """Write states, figures, errors and logs into an archive, names replaced by numbers. Look at it before it goes."""
    from dataclasses import asdict

    from cloister import support as archive
    from cloister.cli.checkup import examine
    from cloister.errors import Conflict, InvalidInput
    from cloister.home import Home
    from cloister.policy import load_settings

    home = Home.default()
    settings = None
    with contextlib.suppress(PermissionError):
        settings = load_settings(home.settings_file).model_dump(mode="json")
    with connect() as client:
        packed = archive.bundle(
            client,
            settings=settings,
            logs={name: home.logs / f"{name}.log" for name in PROGRAMS},
            findings=[asdict(finding) for finding in examine(home, try_device=False)],
        )
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise Conflict("is there already", where=str(file), remedy="Name a new file.") from None
    except OSError as error:
        raise InvalidInput(f"cannot be made: {error.strerror}", where=str(file)) from None
    with os.fdopen(descriptor, "wb") as out:
        out.write(packed)
    if json:
        print_json({"ok": True, "file": str(file), "bytes": len(packed)})
    else:
        say(f"{visible(str(file))}: {size(len(packed))}. Its README says what is in it, and what is not.")
