"""Memory for keys: off the heap, locked and left out of core files where the system allows, wiped at the end.

Knows nothing of what it keeps. Copies that Python makes while a key is used are wiped by who made them
(`wipe_bytes`).
"""

from __future__ import annotations

import ctypes
import mmap
import resource
from contextlib import suppress

from cloister.errors import Locked

_MADV_WIPEONFORK = 18
_PR_SET_DUMPABLE = 4
_BYTES_HEADER = bytes.__basicsize__ - 1


class SecretBytes:
    """Some bytes in a page of their own. `wipe` overwrites them; so does the end of its life.

    `locked` says whether the system keeps the page out of swap. A forked child finds it empty.
    """

    def __init__(self, value: bytes) -> None:
        self._length = len(value)
        self._page: mmap.mmap | None = mmap.mmap(-1, max(1, len(value)), flags=mmap.MAP_PRIVATE)
        for advice in (mmap.MADV_DONTDUMP, _MADV_WIPEONFORK):
            with suppress(OSError):
                self._page.madvise(advice)
        self.locked = _lock_page(self._page)
        self._page[: self._length] = value

    def reveal(self) -> bytes:
        """The bytes, copied: `wipe_bytes` what is not needed any more. Locked once wiped."""
        if self._page is None:
            raise Locked("this key has been wiped", remedy="Unlock the vault.")
        return self._page[: self._length]

    def wipe(self) -> None:
        """Overwrites the bytes. May be called twice."""
        if self._page is not None:
            self._page[:] = bytes(len(self._page))
            self._page.close()
            self._page = None

    def __repr__(self) -> str:
        return "SecretBytes()"

    def __del__(self) -> None:
        with suppress(Exception):
            self.wipe()


def wipe_bytes(*values: bytes) -> None:
    """Overwrites byte strings where they lie. Only for the last user of strings that nobody else holds.

    CPython's layout: the characters begin behind the object's header. Strings of one byte or none are
    shared by the interpreter and stay.
    """
    for value in values:
        if type(value) is bytes and len(value) > 1:
            ctypes.memset(id(value) + _BYTES_HEADER, 0, len(value))


def refuse_dumps() -> None:
    """No core file of this process, and no other process of this account may read its memory."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _lock_page(page: mmap.mmap) -> bool:
    """Keeps `page` out of swap; False where the limit on locked memory is reached."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        return int(libc.mlock(ctypes.c_void_p(address), ctypes.c_size_t(len(page)))) == 0
    except (OSError, AttributeError, ValueError):
        return False
