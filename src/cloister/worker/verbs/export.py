"""The verb `export`: a sealed model out through a pipe, as one tar stream in the clear or encrypted with age.

Decrypts each file as it goes and keeps none of it; the OpenSSF signature is made from what went out, and goes out
last: a stream that was cut off has none. Knows nothing of where the pipe leads.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import select
import stat
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cloister.api import ExportConfig, JobDocument
from cloister.errors import Interrupted, InvalidInput, JobFailed
from cloister.models import openssf
from cloister.worker.verbs import opening

if TYPE_CHECKING:
    from cloister.vault import ObjectReader
    from cloister.worker.emit import Emitter

RECORD_NAME = "export.json"
PIECE = 1 << 20
LOOK_S = 0.2
"""How often it is asked whether to stop, while nobody reads."""
_BLOCK = 512


def run(job: JobDocument, emit: Emitter) -> dict[str, Any]:
    """Write input `model` to `descriptors["output"]`, a pipe; returns how many files and bytes of content.

    Raises:
        Tampered: a file is not what was sealed. What went out before has no signature.
        JobFailed: nobody reads the pipe any more.
        Interrupted: the job was asked to stop.
    """
    config = ExportConfig.model_validate(job.config)
    descriptor = job.descriptors.get("output")
    if descriptor is None or not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        raise InvalidInput("an export goes into a pipe", where=job.job_id)
    key = openssf.signing_key(base64.b64decode(config.secret))
    written = Written()
    with ExitStack() as stack:
        model = stack.enter_context(opening.open_object(job, "model"))
        total = sum(record.size for record in model.manifest.files)

        def refuse_stopped() -> None:
            if emit.should_stop():
                raise Interrupted("the export was stopped; what came out has no signature", where=job.job_id)

        def progress() -> None:
            refuse_stopped()
            emit.progress("export", min(written.bytes, total), max(total, 1))

        outlet = stack.enter_context(_Outlet(descriptor, refuse_stopped))
        more = {
            openssf.PUBLIC_KEY_NAME: openssf.public_pem(key),
            RECORD_NAME: json.dumps(config.record, indent=2, sort_keys=True).encode() + b"\n",
        }
        progress()
        stream = archive(
            config.name,
            model,
            more,
            lambda digests: openssf.signature(config.name, digests, key),
            written,
            progress,
        )
        try:
            if config.form == "plain":
                for piece in stream:
                    _write_all(outlet, piece)
            else:
                _encrypt(stream, outlet, config.recipients)
        except BrokenPipeError:
            raise JobFailed(
                "nobody takes the export any more", where=job.job_id, remedy="Ask for it again."
            ) from None
    return {"form": config.form, "files": written.files, "bytes": written.bytes}


@dataclass
class Written:
    """How much content went out so far."""

    files: int = 0
    bytes: int = 0


def archive(
    name: str,
    model: ObjectReader,
    more: Mapping[str, bytes],
    sign: Callable[[Mapping[str, bytes]], bytes],
    written: Written,
    progress: Callable[[], None],
) -> Iterator[memoryview]:
    """A tar stream (POSIX pax) of the model's files, `more`, and the signature over them all, in `name/`.

    A piece is valid until the next one is asked for.
    """
    digests: dict[str, bytes] = {}
    moment = int(time.time())

    def member(path: str, size: int, pieces: Iterator[memoryview]) -> Iterator[memoryview]:
        if path in digests or "/" in path:
            raise InvalidInput("no exported model has a file of this name", where=path)
        head = tarfile.TarInfo(f"{name}/{path}")
        head.size, head.mtime, head.mode = size, moment, 0o600
        yield memoryview(head.tobuf(tarfile.PAX_FORMAT))
        digest = hashlib.sha256()
        for piece in pieces:
            digest.update(piece)
            written.bytes += len(piece)
            yield piece
        digests[path] = digest.digest()
        written.files += 1
        yield memoryview(bytes(-size % _BLOCK))

    for record in sorted(model.manifest.files, key=lambda record: record.path):
        with model.open(record.path) as reader:
            for piece in member(record.path, record.size, reader.stream(PIECE)):
                yield piece
                progress()
    for path, content in more.items():
        yield from member(path, len(content), iter([memoryview(content)]))
    signature = sign(digests)
    yield from member(openssf.SIGNATURE_NAME, len(signature), iter([memoryview(signature)]))
    yield memoryview(bytes(2 * _BLOCK))


def _write_all(outlet: _Outlet, piece: memoryview) -> None:
    left = piece
    while left:
        left = left[outlet.write(left) :]


def _encrypt(stream: Iterator[memoryview], outlet: _Outlet, recipients: tuple[str, ...]) -> None:
    """The stream as an age file. What fails below age comes out as it was, not as age's text of it."""
    import pyrage

    from cloister.vault import age

    pull = _Pull(stream)
    try:
        with io.BufferedWriter(outlet, PIECE) as buffered:
            pyrage.encrypt_io(pull, buffered, age.parse_recipients(recipients))
    except Exception:
        failed = pull.failed or outlet.failed
        if failed is not None:
            raise failed from None
        raise


class _Pull(io.RawIOBase):
    """A stream of pieces as a file to read."""

    def __init__(self, pieces: Iterator[memoryview]) -> None:
        self._pieces = pieces
        self._left = memoryview(b"")
        self.failed: BaseException | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            while not self._left:
                following = next(self._pieces, None)
                if following is None:
                    return 0
                self._left = following
        except BaseException as error:
            self.failed = error
            raise
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


class _Outlet(io.RawIOBase):
    """The pipe as a file to write, which can be left while nobody reads, and remembers why it failed."""

    def __init__(self, descriptor: int, refuse_stopped: Callable[[], None]) -> None:
        self._descriptor, self._refuse_stopped = descriptor, refuse_stopped
        self.failed: BaseException | None = None
        os.set_blocking(descriptor, False)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """Some of it, at least a byte."""
        try:
            while True:
                self._refuse_stopped()
                if select.select([], [self._descriptor], [], LOOK_S)[1]:
                    with suppress(BlockingIOError):
                        return os.write(self._descriptor, data)
        except BaseException as error:
            self.failed = error
            raise

    def close(self) -> None:
        if not self.closed:
            try:
                super().close()
            finally:
                os.close(self._descriptor)
