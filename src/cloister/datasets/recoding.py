"""Text in another encoding, made UTF-8 as it is read, in memory bounded by one chunk.

Knows encodings by name and by their byte-order mark; it does not know what the text is.
"""

from __future__ import annotations

import codecs

from cloister.datasets.compression import Readable
from cloister.datasets.problems import Unreadable

_CHUNK = 1 << 18
_MARKS = ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


def marked(head: bytes) -> str | None:
    """The encoding that a byte-order mark tells; None for UTF-8, with or without one, and for UTF-32."""
    if head.startswith(codecs.BOM_UTF32_LE):
        return None
    return next((encoding for mark, encoding in _MARKS if head.startswith(mark)), None)


class Recoded:
    """A source's text as UTF-8, read once. Raises Unreadable where its bytes are not of that encoding."""

    def __init__(self, source: Readable, encoding: str) -> None:
        self._source = source
        self._encoding = encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._ready = b""
        self._ended = False
        self._line = 1
        self.taken = 0
        """Bytes of the source read so far."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""
        while not self._ready and not self._ended:
            data = self._source.read(_CHUNK)
            self.taken += len(data)
            self._ended = not data
            try:
                text = self._decoder.decode(data, final=self._ended)
            except UnicodeDecodeError as error:
                before = bytes(error.object[: error.start]).decode(self._encoding, "replace")
                raise Unreadable(
                    f"has bytes that are not {self._encoding}",
                    line=self._line + before.count("\n"),
                    remedy="Name its own encoding with --encoding.",
                ) from None
            self._line += text.count("\n")
            self._ready = text.encode()
        found, self._ready = self._ready[:size], self._ready[size:]
        return found
