"""Where an exported model goes, with the caller's own rights: a folder that appears whole or not at all.

Runs on the client's side. What comes through the pipe is written to `FOLDER.part`, checked for being complete,
synced, and renamed. Trusts neither the names in the stream nor its end. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import re
import select
import shutil
import tarfile
import threading
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

from cloister.errors import (
    CloisterError,
    Conflict,
    Denied,
    Interrupted,
    InvalidInput,
    NotFound,
    OutOfSpace,
    Tampered,
)

PART_SUFFIX = ".part"
ARCHIVE_SUFFIX = ".tar.age"
LAST = "model.sig"
"""The file that comes last: without it an export is none."""
MAX_FILES = 10_000
_PIECE = 1 << 20
_LOOK_S = 0.2
_GRACE_S = 5.0
_SPARE = 4 << 20
"""What names, headers and the signature take besides the content, amply."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+@=,-]{0,127}")

Form = Literal["encrypted", "plain"]


class ExportFolder:
    """One folder to be, filled from a pipe by a thread of its own.

    Hand `output` over, call `handed_over`, and then `finish`, which raises what went wrong on this side. Leaving the
    `with` block without `finish` removes what was written.

    Args:
        folder: neither there nor a link, or empty and no mount point; its parent exists.
        name: of the model; the archive of an encrypted export is `<name>.tar.age`.
        need: bytes that will come, about.
        outside: folders that it may not lie in.
    """

    def __init__(
        self, folder: Path, name: str, form: Form, *, need: int, outside: tuple[Path, ...] = ()
    ) -> None:
        self.folder = Path(os.path.abspath(folder))  # noqa: PTH100 - `..` goes, and no link is followed
        self._name, self._form = name, form
        self._refuse(outside)
        self._part = self.folder.with_name(self.folder.name + PART_SUFFIX)
        self._refuse_full(need)
        try:
            self._part.mkdir(mode=0o700)
        except FileExistsError:
            raise Conflict(
                "what an export that was cut off has left lies there",
                where=str(self._part),
                remedy="Nothing in it is signed. Look, remove it, and give the command again.",
            ) from None
        except OSError as error:
            raise self._told(error, self._part) from None
        try:
            self._into = os.open(self._part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                reading, self.output = os.pipe2(os.O_CLOEXEC)
            except OSError:
                os.close(self._into)
                raise
        except OSError as error:
            self._part.rmdir()
            raise self._told(error, self._part) from None
        with contextlib.suppress(OSError):  # the system's limit for one account's pipes
            fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, _PIECE)
        self._failed: CloisterError | None = None
        self._cut = self._finished = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._guarded, args=(reading,), daemon=True)
        self._thread.start()

    def handed_over(self) -> None:
        """Whoever writes has a descriptor of their own: theirs is now the only one. May be called twice."""
        output, self.output = self.output, -1
        if output >= 0:
            os.close(output)

    @property
    def failed(self) -> CloisterError | None:
        """What went wrong on this side, where that is why whoever wrote could not go on."""
        self.handed_over()
        self._thread.join(_GRACE_S)
        return None if self._cut else self._failed

    def finish(self) -> None:
        """Rename what came into place. To be called once whoever writes said that it was all.

        Errors: what went wrong meanwhile, Conflict where something is in its place.
        """
        self.handed_over()
        self._thread.join()
        if self._failed is not None:
            raise self._failed
        try:
            os.fsync(self._into)
            self._part.rename(self.folder)
            self._finished = True
            parent = os.open(self.folder.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(parent)
            finally:
                os.close(parent)
        except OSError as error:
            raise self._told(error, self.folder) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.handed_over()
        self._stop.set()
        self._thread.join()  # its end of the pipe is closed now, which tells whoever writes
        os.close(self._into)
        if not self._finished:
            shutil.rmtree(self._part, ignore_errors=True)

    # --- before anything is asked for ----------------------------------------------------------

    def _refuse(self, outside: tuple[Path, ...]) -> None:
        folder, where = self.folder, str(self.folder)
        if folder.is_symlink():
            raise InvalidInput(
                "a symbolic link is not followed", where=where, remedy="Name the folder itself."
            )
        real = folder.resolve()
        if any(real == kept.resolve() or kept.resolve() in real.parents for kept in outside):
            raise InvalidInput(
                "an export inside the appliance's home is none",
                where=where,
                remedy="Name a folder elsewhere.",
            )
        if not folder.parent.is_dir():
            raise NotFound("no such folder", where=str(folder.parent), remedy="Make it first.")
        if not folder.exists():
            return
        if not folder.is_dir():
            raise Conflict("a file lies there", where=where, remedy="Name a new folder.")
        if os.path.ismount(folder):
            raise InvalidInput(
                "a medium's own top folder cannot appear whole",
                where=where,
                remedy=f"Name a new folder on it: {folder / self._name}",
            )
        try:
            empty = not any(folder.iterdir())
        except OSError as error:
            raise self._told(error, folder) from None
        if not empty:
            raise Conflict("the folder is not empty", where=where, remedy="Name a new one.")

    def _refuse_full(self, need: int) -> None:
        free = shutil.disk_usage(self.folder.parent).free
        if free < need + _SPARE:
            raise OutOfSpace(
                f"the medium has {free >> 20} MiB free, and the export takes about {(need + _SPARE) >> 20}",
                where=str(self.folder.parent),
                remedy="Make room, or name a folder on another medium.",
            )

    # --- what comes ------------------------------------------------------------------------------

    def _guarded(self, reading: int) -> None:
        """In a thread: take all that comes. On trouble the pipe is closed, which ends whoever writes."""
        try:
            with io.BufferedReader(_Pipe(reading, self._stop), _PIECE) as stream:
                if self._form == "plain":
                    self._unpack(stream)
                else:
                    self._write(self._name + ARCHIVE_SUFFIX, stream)
        except CloisterError as error:
            self._failed = error
        except (tarfile.TarError, EOFError, _CutOffError):
            self._cut = True
            self._failed = Tampered(
                "the export ended before its signature", where=str(self._part), remedy="Ask for it again."
            )
        except OSError as error:
            self._failed = self._told(error, self._part)
        except Exception as error:
            self._failed = CloisterError(f"it could not be written ({type(error).__name__})")

    def _unpack(self, stream: IO[bytes]) -> None:
        """Regular files of plain names in one folder; the signature last; nothing behind it."""
        seen: list[str] = []
        with tarfile.open(fileobj=stream, mode="r|", bufsize=_PIECE) as archive:
            for member in archive:
                folder, _, name = member.name.partition("/")
                if (
                    not member.isreg()
                    or member.sparse is not None
                    or folder != self._name
                    or not _NAME.fullmatch(name)
                    or name in seen
                    or LAST in seen
                    or len(seen) >= MAX_FILES
                ):
                    raise Tampered("what came is no export", where=str(self._part))
                content = archive.extractfile(member)
                if content is None or self._write(name, content) != member.size:
                    raise _CutOffError
                seen.append(name)
        if not seen or seen[-1] != LAST:
            raise _CutOffError
        while stream.read(_PIECE):  # the padding at the end, so that whoever writes it can
            pass

    def _write(self, name: str, source: IO[bytes]) -> int:
        """One new file; how many bytes it has, which are on the medium by then."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, 0o600, dir_fd=self._into), "wb", buffering=0) as file:
            count = 0
            while piece := source.read(_PIECE):
                left = memoryview(piece)
                while left:
                    left = left[file.write(left) :]
                count += len(piece)
            os.fsync(file.fileno())
        return count

    def _told(self, error: OSError, path: Path) -> CloisterError:
        where = str(path)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return OutOfSpace("the medium is full", where=where, remedy="Make room, or name another one.")
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return Denied("the system refuses access", where=where, remedy="Name a folder of yours.")
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            return Conflict("something lies there meanwhile", where=where, remedy="Name a new folder.")
        return CloisterError(f"the system refuses: {error.strerror}", where=where)


class _Pipe(io.RawIOBase):
    """The reading end, which can be left while nothing comes."""

    def __init__(self, descriptor: int, stop: threading.Event) -> None:
        self._descriptor, self._stop = descriptor, stop

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        ready: list[int] = []
        while not ready:
            if self._stop.is_set():
                raise Interrupted("the export was left")
            ready = select.select([self._descriptor], [], [], _LOOK_S)[0]
        return os.readv(self._descriptor, [buffer])

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._descriptor)


class _CutOffError(Exception):
    """What came has no end."""
