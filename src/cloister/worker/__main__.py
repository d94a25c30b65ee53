"""`python -m cloister.worker`: one job document in on standard input, events out on standard output.

The shell around every verb: hardens the process, takes standard output away from libraries, checks
the sandbox, and turns exceptions into failures that hold no content. It knows no verb's work.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib
import json
import os
import signal
import sys
import traceback
from types import FrameType
from typing import TYPE_CHECKING

from cloister.sandbox.harden import harden_process

if TYPE_CHECKING:
    from cloister.api import Failure, JobDocument
    from cloister.worker.emit import Emitter

VERBS = {
    "import": "cloister.worker.verbs.import_",
    "dry-run": "cloister.worker.verbs.import_",
    "base": "cloister.worker.verbs.base",
    "train": "cloister.worker.verbs.train",
    "evaluate": "cloister.worker.verbs.evaluate",
    "merge": "cloister.worker.verbs.merge",
    "errors": "cloister.worker.verbs.errors",
    "reveal": "cloister.worker.verbs.reveal",
    "rotate": "cloister.worker.verbs.rotate",
    "forget": "cloister.worker.verbs.forget",
    "report": "cloister.worker.verbs.report",
    "derive": "cloister.worker.verbs.derive",
    "rows": "cloister.worker.verbs.rows",
    "render": "cloister.worker.verbs.render",
    "export": "cloister.worker.verbs.export",
    "self-check": "cloister.worker.verbs.selfcheck",
}
_MAX_JOB = 16 << 20
_EVENTS_FROM = 256
"""The event descriptor lies above all inherited ones."""


def main() -> int:
    """Run the one job; the exit status is that of `cloister.errors`."""
    harden_process()
    events = take_output()
    try:
        document = take_input()
        # Only now: what these import may print or warn, and nobody must see it.
        from cloister.worker.emit import Emitter

        emit = Emitter(events)

        def on_sigterm(number: int, frame: FrameType | None) -> None:
            emit.request_stop()

        signal.signal(signal.SIGTERM, on_sigterm)
        return run(document, emit)
    except BaseException as error:  # nothing may reach the interpreter's own report
        line = {"event": "failure", "code": "error", "message": place_of(error)}
        os.write(events, json.dumps(line).encode() + b"\n")
        return 1


def run(document: bytes, emit: Emitter) -> int:
    """Parse the job, check the sandbox, run the verb and emit its end."""
    from cloister.errors import CloisterError

    try:
        job = parse(document)
        del document
        check_sandbox(os.environ.get("CLOISTER_SANDBOX"))
        if job.threads:
            for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
                os.environ.setdefault(name, str(job.threads))
        verb = importlib.import_module(VERBS[job.verb])
        values = verb.run(job, emit)
    except BaseException as error:
        emit.failure(failure_of(error))
        return error.exit_code if isinstance(error, CloisterError) else 1
    emit.result(values)
    return 0


def take_output() -> int:
    """Keep standard output for events, and give libraries /dev/null in its place and in stderr's."""
    events = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, _EVENTS_FROM)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)
    return events


def take_input() -> bytes:
    """All of standard input, which is then emptied where it can be: its keys are in memory once."""
    pieces = []
    size = 0
    while piece := os.read(0, 1 << 16):
        pieces.append(piece)
        size += len(piece)
        if size > _MAX_JOB:
            raise OverflowError
    with contextlib.suppress(OSError):  # a pipe, which holds nothing once it is read
        os.ftruncate(0, 0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return b"".join(pieces)


def parse(document: bytes) -> JobDocument:
    """The job, or an error that names fields and no values.

    Raises:
        InvalidInput: it does not fit, or it is no worker's job.
    """
    from pydantic import ValidationError

    from cloister.api import JobDocument
    from cloister.errors import InvalidInput

    try:
        job = JobDocument.model_validate_json(document)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "job"
        raise InvalidInput(f"The job document does not fit: {first['type']}.", where=where) from None
    if job.verb not in VERBS:
        raise InvalidInput("A worker has no such verb.", where=job.verb)
    return job


def check_sandbox(promised: str | None) -> None:
    """Refuse to work where the sandbox that was promised is not there.

    Raises:
        SandboxUnavailable: naming what is missing.
    """
    from cloister.errors import SandboxUnavailable
    from cloister.sandbox.selfcheck import quick_check

    if promised == "none":
        return
    missing = ("nobody said in which sandbox this runs",) if promised != "bwrap" else quick_check()
    if missing:
        raise SandboxUnavailable(
            f"This is not the sandbox that was promised: {'; '.join(missing)}.",
            remedy="Run `cloister doctor`.",
        )


def failure_of(error: BaseException) -> Failure:
    """What may be said of an exception: an error of ours in full, of others only its type and place."""
    from cloister.api import Failure
    from cloister.errors import CloisterError, OutOfSpace

    if not isinstance(error, CloisterError):
        short = what_ran_out(error)
        if short is None:
            return Failure(code="error", message=place_of(error))
        error = OutOfSpace(f"{short} ran out.", where=place_of(error))
    values = getattr(error, "values", None)
    return Failure(
        code=error.code,
        message=error.message[:2000],
        where=error.where[:500] if error.where else None,
        remedy=error.remedy[:1000] if error.remedy else None,
        values=values if isinstance(values, dict) else {},
    )


def what_ran_out(error: BaseException) -> str | None:
    """`Memory` or `The disk`, where that is what the exception means."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "The disk, or the memory of /tmp,"
    out_of_memory = (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error))
    )
    return "Memory" if out_of_memory else None


def place_of(error: BaseException) -> str:
    """`<Type> in <module>:<line>` of the innermost frame, and of the innermost one of ours; no text."""
    inner = ours = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        name = frame.f_globals.get("__name__", "?")
        inner = f"{name}:{line}"
        if str(name).startswith("cloister."):
            ours = inner
    where = f" in {inner}" if inner else ""
    return f"{type(error).__name__}{where}" + (f", from {ours}" if ours and ours != inner else "")


if __name__ == "__main__":
    sys.exit(main())
