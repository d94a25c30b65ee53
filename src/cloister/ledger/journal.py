"""What makes an append durable: journal files whose space is reserved before it is needed.

`<number>` files are written frame by frame, in the order of their numbers; a file whose first frame
starts below the end of the one before it replaces what stood from there on (that is how a journal is
taken up again after a failure). `emergency` keeps space for entries that must go through on a full
disk; `spare` is the next file, made ahead of time. Knows nothing of trees.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from cloister.errors import Tampered
from cloister.ledger import files
from cloister.ledger.frames import OVERHEAD, frame, read_frames, seed
from cloister.modes import read_foreign

_RESTORE = "Restore the ledger from a copy that verifies."


MAX_FILE = 1 << 30
"""More than any file of a journal holds."""


class JournalFile:
    """One file of frames, open for writing."""

    def __init__(self, path: Path, descriptor: int, size: int, origin: str) -> None:
        self.path = path
        self._descriptor = descriptor
        self._size = size
        self._offset = 0
        self._digest = seed(origin)

    @property
    def used(self) -> bool:
        return self._offset > 0

    def fits(self, length: int) -> bool:
        """Whether a frame of that many bytes of records has room."""
        return self._offset + OVERHEAD + length <= self._size

    def append(self, first: int, records: Sequence[bytes]) -> None:
        """Write one frame and wait until it is on the disk.

        Raises:
            OSError: it may or may not be there; this file takes no further frame.
        """
        data, digest = frame(self._digest, first, records)
        offset = self._offset
        self._offset = self._size + 1
        files.write_all(self._descriptor, data, offset)
        os.fdatasync(self._descriptor)
        self._offset = offset + len(data)
        self._digest = digest

    def skip(self, offset: int, digest: bytes) -> None:
        """Go on behind frames that are already there."""
        self._offset, self._digest = offset, digest

    def close(self) -> None:
        """May be called twice: by then its number may be another file's."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class Journal:
    """The journal folder of one log.

    `file` is the file being written, `emergency` the reserved one. One thread writes; `prepare_spare`
    may run in another.
    """

    def __init__(self, folder: Path, origin: str, *, file_bytes: int, emergency_bytes: int) -> None:
        self.folder = folder
        self.origin = origin
        self.file_bytes = file_bytes
        self.emergency_bytes = emergency_bytes
        self.file: JournalFile | None = None
        self.emergency: JournalFile | None = None
        self.starts: dict[Path, int] = {}
        """First index of each file that holds frames."""
        self._number = 0
        self._spare: int | None = None

    def read(self, signed_size: int) -> list[bytes]:
        """The entries from `signed_size` on, from all files and the emergency space.

        Raises:
            Tampered: a file is damaged, or entries are missing between two files.
        """
        entries: list[bytes] = []
        end = -1
        for path in self._numbered():
            self._number = max(self._number, int(path.name))
            for number, found in enumerate(read_frames(path, read_foreign(path, MAX_FILE), self.origin)):
                if number == 0:
                    self.starts[path] = found.first
                if not number and found.first > max(end, signed_size):
                    raise Tampered("The journal has a gap.", where=str(path), remedy=_RESTORE)
                if number and found.first != end:
                    raise Tampered("The journal is out of order.", where=str(path), remedy=_RESTORE)
                _place(entries, found.first, found.entries, signed_size)
                end = found.first + len(found.entries)
        end = max(end, self._read_emergency(entries, signed_size))
        if 0 <= end < signed_size:
            raise Tampered(
                "The journal ends before the signed tree head.", where=str(self.folder), remedy=_RESTORE
            )
        return entries

    def _read_emergency(self, entries: list[bytes], signed_size: int) -> int:
        """Put what the emergency space holds in its place; returns the index behind it, or -1."""
        path = self.folder / "emergency"
        end = -1
        if not path.exists():
            return end
        for found in read_frames(path, path.read_bytes(), self.origin):
            for index, entry in enumerate(found.entries, found.first):
                position = index - signed_size
                if position > len(entries):
                    raise Tampered("The emergency space has a gap.", where=str(path), remedy=_RESTORE)
                if position >= 0 and entries[position : position + 1] != [entry]:
                    # Written after a failure: what else claims its place was never acknowledged.
                    entries[position:] = [entry]
            end = found.first + len(found.entries)
        return end

    def open_emergency(self) -> None:
        """Take up the emergency space, where there is one already."""
        path = self.folder / "emergency"
        if not path.exists():
            return
        data = path.read_bytes()
        descriptor = os.open(path, os.O_RDWR)
        self.emergency = JournalFile(path, descriptor, len(data), self.origin)
        frames = list(read_frames(path, data, self.origin))
        stop = frames[-1].stop if frames else 0
        if frames:
            self.emergency.skip(stop, frames[-1].digest)
        if data[stop:].strip(b"\x00"):
            files.write_all(descriptor, bytes(len(data) - stop), stop)  # a torn frame

    def start(self, first: int, records: Sequence[bytes]) -> None:
        """Take the journal up in a new file that begins with these records, and remove the old files.

        What the emergency space held must be among the records: it starts out empty again.

        Raises:
            OSError: nothing has changed for a reader; call it again when the cause is gone.
        """
        touched: set[Path] = set()
        files.make_folder(self.folder, touched)
        files.sync_folders(touched)
        fresh = self.folder / "emergency.new"
        reset = self.emergency is None or self.emergency.used
        if reset:
            os.close(files.allocate(fresh, self.emergency_bytes, zeroed=True))
        length = sum(map(len, records))
        try:
            file = self._create(max(self.file_bytes, OVERHEAD + length))
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
        try:
            if records:
                file.append(first, records)
            files.sync_folder(self.folder)
        except BaseException:
            file.close()
            file.path.unlink(missing_ok=True)
            fresh.unlink(missing_ok=True)
            raise
        if self.file is not None:
            self.file.close()
        self.file = file
        if reset:
            fresh.replace(self.folder / "emergency")
            files.sync_folder(self.folder)
            before, self.emergency = self.emergency, None  # where it cannot be opened there is none
            if before is not None:
                before.close()
            self.open_emergency()
        for path in self._numbered():
            if path != file.path:
                path.unlink(missing_ok=True)
        self.starts = {file.path: first} if records else {}

    def append(self, first: int, records: Sequence[bytes], length: int) -> bool:
        """Make records durable; returns whether a new file was begun (and a spare is wanted)."""
        file = self.file
        assert file is not None
        begun = not file.fits(length)
        if begun:
            self.file = self._create(max(self.file_bytes, OVERHEAD + length))
            file.close()
            file = self.file
        if file.path not in self.starts:
            self.starts[file.path] = first
        file.append(first, records)
        if begun:
            files.sync_folder(self.folder)
        return begun

    def prepare_spare(self) -> None:
        """Make the next file ahead of time, so that no append waits for it."""
        if self._spare is None:
            self._spare = files.allocate(self.folder / "spare", self.file_bytes)

    def drop_before(self, signed_size: int) -> None:
        """Remove the files whose entries are all below `signed_size`."""
        starts = list(self.starts.items())
        for (path, _), (_, following) in pairwise(starts):
            if following <= signed_size:
                path.unlink(missing_ok=True)
                self.starts.pop(path, None)

    def close(self) -> None:
        ours, self.file, self.emergency = (self.file, self.emergency), None, None
        for file in ours:
            if file is not None:
                file.close()
        spare, self._spare = self._spare, None
        if spare is not None:
            os.close(spare)
            (self.folder / "spare").unlink(missing_ok=True)

    def _create(self, size: int) -> JournalFile:
        self._number += 1
        path = self.folder / f"{self._number:010d}"
        spare = self._spare
        if spare is not None and size == self.file_bytes:
            (self.folder / "spare").replace(path)
            self._spare = None  # only now may another one be made under that name
            return JournalFile(path, spare, size, self.origin)
        return JournalFile(path, files.allocate(path, size), size, self.origin)

    def _numbered(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("*") if path.name.isdigit())


def _place(entries: list[bytes], first: int, found: Sequence[bytes], signed_size: int) -> None:
    position = first - signed_size
    if position >= 0:
        entries[position:] = found
    elif -position < len(found):
        entries[:] = found[-position:]
    else:
        entries.clear()
