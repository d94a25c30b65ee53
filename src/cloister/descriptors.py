"""Letting go of several descriptors that this process owns: each once, whatever becomes of the others.

A number that is closed a second time may by then be another thread's file. It knows nothing of what they are.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable


def close_all(descriptors: Iterable[int]) -> None:
    """Close each of them.

    One that could not be written to its end is closed all the same (close(2), NOTES), and is no reason to leave the
    others open. Errors: OSError, once all are closed, where one was not open: then it has another owner.
    """
    foreign: OSError | None = None
    for descriptor in descriptors:
        try:
            os.close(descriptor)
        except OSError as error:
            foreign = error if error.errno == errno.EBADF else foreign
    if foreign is not None:
        raise foreign
