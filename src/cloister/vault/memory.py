"""Memory for keys: off the heap, locked and left out of core files where the system allows, wiped at the end.

Knows nothing of what it keeps. Python's own copies, made while a key is used, are not wiped.
"""

from __future__ import annotations

import ctypes
import mmap
from contextlib import suppress

from cloister.errors import Locked


class SecretBytes:
    """Some bytes in a page of their own. `wipe` overwrites them; so does the end of its life."""

    def __init__(self, value: bytes) -> None:
        self._length = len(value)
        self._page: mmap.mmap | None = mmap.mmap(-1, max(1, len(value)), flags=mmap.MAP_PRIVATE)
        with suppress(OSError):
            self._page.madvise(mmap.MADV_DONTDUMP)
        self.locked = _lock_page(self._page)
        self._page[: self._length] = value

    def reveal(self) -> bytes:
        """The bytes, copied. Locked once wiped."""
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


def _lock_page(page: mmap.mmap) -> bool:
    """Keeps `page` out of swap; False where the limit on locked memory is reached."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        return int(libc.mlock(ctypes.c_void_p(address), ctypes.c_size_t(len(page)))) == 0
    except (OSError, AttributeError, ValueError):
        return False
