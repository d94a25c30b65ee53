"""The host's processes, as /proc tells of them: who descends from whom, and how much memory they hold."""

from __future__ import annotations

import os
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")


def children_of_all(proc: Path = Path("/proc")) -> dict[int, list[int]]:
    """Every process id → those of its children, in the order of their ids."""
    children: dict[int, list[int]] = {}
    for name in sorted((entry.name for entry in os.scandir(proc) if entry.name.isdigit()), key=int):
        try:
            text = (proc / name / "stat").read_bytes()
        except OSError:
            continue
        parent = int(text.rpartition(b")")[2].split()[1])
        children.setdefault(parent, []).append(int(name))
    return children


def descendants(pid: int, children: dict[int, list[int]]) -> list[int]:
    """`pid` and all below it."""
    found, pending = [], [pid]
    while pending:
        one = pending.pop()
        found.append(one)
        pending.extend(children.get(one, ()))
    return found


def resident_bytes(pids: list[int]) -> int:
    """Resident memory of these together; pages that they share count for each."""
    total = 0
    for pid in pids:
        try:
            total += int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * _PAGE
        except (OSError, IndexError, ValueError):
            continue
    return total
