"""Files hashed on the way (SHA-256): what goes through is what was hashed. Knows nothing of what it is."""

from __future__ import annotations

import hashlib
from typing import IO, Any


class HashingWriter:
    """What is written goes on to a file, hashed on the way."""

    def __init__(self, raw: Any) -> None:
        self._raw, self._hash, self.size = raw, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        while view:
            view = view[self._raw.write(view) :]
        self._hash.update(data)
        self.size += len(data)
        return len(data)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


class HashingReader:
    """What is read from a file, hashed on the way."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw, self._hash = raw, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._raw.read(size)
        self._hash.update(data)
        return data

    def hexdigest(self) -> str:
        return self._hash.hexdigest()
