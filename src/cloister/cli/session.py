"""What a command needs: the home, a client on its authority (started when it does not run), a passphrase."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from cloister.cli.leaving import Left, leaving
from cloister.errors import InvalidInput
from cloister.home import Home

if TYPE_CHECKING:
    from cloister.api import Job
    from cloister.client import Client

MAX_PASSPHRASE = 1024


def connect(**patience: float) -> Client:
    """A client on the home's authority, of that patience. Embedded, an appliance that does not run is started."""
    from cloister import embedded
    from cloister.client import Client

    home = Home.default()
    if embedded.listener_pid(home.authority_socket) is None:
        embedded.start(home)
    return Client(home.authority_socket, **patience)


def read_passphrase(descriptor: int | None, *, new: bool = False) -> str:
    """From a descriptor, else asked for at the terminal, never from argv or the environment."""
    if descriptor is not None:
        try:
            text = _read_line(descriptor).decode()
        except OSError:
            raise InvalidInput("nothing can be read from that descriptor", where="--passphrase-fd") from None
        except UnicodeDecodeError:
            raise InvalidInput("the passphrase is not UTF-8", where="--passphrase-fd") from None
    else:
        if not sys.stdin.isatty():
            raise InvalidInput(
                "there is no terminal to ask for the passphrase",
                remedy="Use `--passphrase-fd 0` and give it on standard input.",
            )
        import getpass

        with leaving("nothing was changed.", "Ask again with the passphrase at hand."):
            text = getpass.getpass("Passphrase: ")
            if new and getpass.getpass("Once more: ") != text:
                raise InvalidInput("the two passphrases differ")
    if not text or len(text) > MAX_PASSPHRASE:
        raise InvalidInput(f"a passphrase has 1 to {MAX_PASSPHRASE} characters")
    return text


def _read_line(descriptor: int) -> bytes:
    """Up to the first newline or the end, however many pieces it comes in."""
    raw = b""
    while b"\n" not in raw and len(raw) <= 4 * MAX_PASSPHRASE:  # a character has at most four bytes
        piece = os.read(descriptor, 4096)
        if not piece:
            break
        raw += piece
    return raw.split(b"\n", 1)[0]


def again(job: Job | None, job_id: str) -> str:
    """How to pick a job up whose end was not seen."""
    if job is not None and job.verb in ("train", "evaluate"):
        return f"Pick it up again with `cloister run watch {job_id}`."
    return "See `cloister status`."


def watch(client: Client, job_id: str, *, quiet: bool = False) -> Job:
    """Follow a job to its end with a live line. Ctrl-C leaves it running. Errors: what it failed with."""
    from cloister.cli.output import Live
    from cloister.client import error_of
    from cloister.errors import JobFailed, Unavailable

    live = Live()
    job = None
    try:
        for job in client.watch_job(job_id):
            if not quiet:
                live.show(job)
    except KeyboardInterrupt:
        raise Left("the job goes on.", remedy=again(job, job_id)) from None
    except Unavailable as error:
        remedy = f"Start it with `cloister up` and `cloister unlock`. {again(job, job_id)}"
        raise Unavailable(error.message, where=error.where, remedy=remedy) from None
    finally:
        live.end()
    assert job is not None
    if job.error is not None:
        raise error_of(job.error)
    if job.state != "done":
        raise JobFailed(f"the job was {job.state}", where=job_id)
    return job
