"""The other processes of a training: started, given what they need, and ended with the first one.

Each gets the job on its standard input, without keys, and asks the first process for each key over a Unix socket in
the sandbox's RAM `/tmp`, once. `python -m cloister.worker.ranks` is one of them. Knows no recipe.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from cloister.errors import CloisterError, Interrupted, JobFailed
from cloister.sandbox.harden import die_with_parent, harden_process

if TYPE_CHECKING:
    from cloister.api import Grant, JobDocument
    from cloister.training.ranks import Ranks

OUTPUT = "output"
"""The name of the output's key; inputs' keys go by their roles."""

_MODULE = "cloister.worker.ranks"
_WAIT_S = 10.0
NOTICED_S = 15.0
READY_S = 600.0
"""So long the others have to load their libraries."""


class _Place(msgspec.Struct, frozen=True):
    """What one of the other processes is told first. `job` is a `JobDocument` without keys."""

    job: str
    rank: int
    size: int
    parent: int
    keys: str
    meeting: str


@contextmanager
def gang(job: JobDocument, size: int, *, on_fault: Callable[[CloisterError], None]) -> Iterator[Ranks]:
    """`size` processes, this one the first, for as long as the context lasts.

    Args:
        on_fault: called in a thread where another one ended before its time and this one has not noticed within
            `NOTICED_S`: it may wait for it on a GPU, which nothing interrupts.

    Raises:
        JobFailed: another one ended before its time; with what it said.
        Interrupted: another one was killed.
    """
    from cloister.sandbox.keyserver import KeyServer
    from cloister.training.ranks import Gang

    folder = Path(tempfile.mkdtemp(prefix="ranks-"))
    grants = {**job.inputs, **({OUTPUT: job.output} if job.output is not None else {})}
    keys = {role: base64.b64decode(grant.key) for role, grant in grants.items() if grant.key is not None}
    processes: list[subprocess.Popen[bytes]] = []
    try:
        with KeyServer(folder / "keys", keys) as server:
            for rank in range(1, size):
                place = _Place(
                    job=_without_keys(job).model_dump_json(),
                    rank=rank,
                    size=size,
                    parent=os.getpid(),
                    keys=str(server.path),
                    meeting=str(folder / "meeting"),
                )
                processes.append(_start(place))
            try:
                _wait_for(processes, folder)
                with (
                    _watched(processes, on_fault),
                    Gang(0, size, folder / "meeting", _backend(job)) as ranks,
                ):
                    yield ranks
            except RuntimeError as error:  # what torch.distributed raises where another process is gone
                if isinstance(error, CloisterError):
                    raise
                raise _fault(processes) or error from None
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_WAIT_S)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _watched(
    processes: list[subprocess.Popen[bytes]], on_fault: Callable[[CloisterError], None]
) -> Iterator[None]:
    """See that the others live, for as long as the context lasts."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(1.0):
            if any(process.poll() for process in processes):
                if not over.wait(NOTICED_S):
                    on_fault(_fault(processes) or JobFailed("A process of this run ended before its time."))
                return

    watcher = threading.Thread(target=watch, name="ranks", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _start(place: _Place) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", _MODULE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(place))
    process.stdin.close()
    process.stdin = None
    return process


def _wait_for(processes: list[subprocess.Popen[bytes]], folder: Path) -> None:
    """Until each of the others is about to join. Raises JobFailed where one ended instead, or comes to nothing."""
    end = time.monotonic() + READY_S
    while not all((folder / f"ready-{rank}").exists() for rank in range(1, len(processes) + 1)):
        if time.monotonic() > end:
            raise JobFailed(
                f"Not all {len(processes) + 1} processes of this run had begun after {READY_S / 60:.0f} minutes.",
                remedy="Resume it; where it happens again, see `cloister doctor` and this machine's load.",
            )
        if any(process.poll() is not None for process in processes):
            raise _fault(processes) or JobFailed("A process of this run ended before it began.")
        time.sleep(0.05)


def _fault(processes: list[subprocess.Popen[bytes]]) -> CloisterError | None:
    """What one of the others said when it ended badly; None where all still run. One that was killed has cut the run
    off, as if it were the first."""
    for number, process in enumerate(processes, 2):
        with contextlib.suppress(subprocess.TimeoutExpired):
            said, _ = process.communicate(timeout=_WAIT_S)
            if process.returncode < 0:
                return Interrupted(f"process {number} of {len(processes) + 1} was killed")
            if process.returncode:
                told = said.decode(errors="replace").strip()[:500] or f"exit status {process.returncode}"
                return JobFailed(f"Process {number} of {len(processes) + 1} ended: {told}")
    return None


def _without_keys(job: JobDocument) -> JobDocument:
    def bare(grant: Grant) -> Grant:
        return grant.model_copy(update={"key": None})

    return job.model_copy(
        update={
            "inputs": {role: bare(grant) for role, grant in job.inputs.items()},
            "output": None if job.output is None else bare(job.output),
            "descriptors": {},
        }
    )


def _with_keys(job: JobDocument, keys: Path) -> JobDocument:
    from cloister.errors import NotFound
    from cloister.sandbox.keyserver import fetch_key

    def whole(role: str, grant: Grant) -> Grant:
        try:
            key = base64.b64encode(fetch_key(keys, role)).decode()
        except NotFound:  # an object that is stored in the open
            return grant
        return grant.model_copy(update={"key": key})

    return job.model_copy(
        update={
            "inputs": {role: whole(role, grant) for role, grant in job.inputs.items()},
            "output": None if job.output is None else whole(OUTPUT, job.output),
        }
    )


def _backend(job: JobDocument) -> str:
    return "nccl" if job.device == "cuda" else "gloo"


def main() -> int:
    """One of the others, from its place on standard input to the end of its work."""
    harden_process()
    from cloister.worker.__main__ import check_sandbox, failure_of, take_input, take_output

    out = take_output()
    try:
        place = msgspec.json.decode(take_input(), type=_Place)
        die_with_parent(place.parent)
        check_sandbox(os.environ.get("CLOISTER_SANDBOX"))
        _work(place)
    except Interrupted:
        return 0
    except BaseException as error:  # nothing may reach the interpreter's own report
        with contextlib.suppress(OSError):
            os.write(out, failure_of(error).message.encode() + b"\n")
        return 1
    return 0


def _work(place: _Place) -> None:
    import torch  # noqa: F401 - what takes long is done before the first process is told

    from cloister.api import JobDocument
    from cloister.training.ranks import Gang
    from cloister.worker.verbs import train

    job = _with_keys(JobDocument.model_validate_json(place.job), Path(place.keys))
    (Path(place.meeting).parent / f"ready-{place.rank}").touch()
    with Gang(place.rank, place.size, Path(place.meeting), _backend(job)) as ranks:
        train.take_part(job, ranks)


if __name__ == "__main__":
    sys.exit(main())
