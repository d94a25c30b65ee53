"""A worker's memory bounded to what the machine has free: what asks for more is told so, and the kernel kills nobody.

Without a bound Linux promises memory that it has not, and ends a process when it is used. Knows no verb.
"""

from __future__ import annotations

import resource
from pathlib import Path

SHARE = 0.95
"""Of what is free; the rest is for whoever else grows meanwhile."""


def bound_to_what_is_free(processes: int = 1) -> None:
    """Bound this process, one of so many that begin alike, to its part of the memory that is free now."""
    bound_growth(int(SHARE * _bytes_of(Path("/proc/meminfo"), "MemAvailable")) // processes)


def bound_growth(most: int) -> None:
    """Let this process take so many bytes more than it has, and no others: an allocation beyond them fails.

    `RLIMIT_DATA` counts what is private and writable (setrlimit(2)), so neither files that are mapped nor /tmp.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _bytes_of(Path("/proc/self/status"), "VmData") + most
    resource.setrlimit(
        resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard)
    )


def _bytes_of(path: Path, field: str) -> int:
    for line in path.read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        if name == field:
            return int(rest.split()[0]) << 10
    raise OSError(f"{path} has no {field}")
