"""How far a sink has got in each log, and since when it is down, in a small file that survives a restart.

What is lost with it costs duplicates, never entries.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from cloister.ledger import files

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Position:
    """Entries below `next` were taken by the receiver; `leaf` is the leaf hash of the last of them, in hex."""

    next: int = 0
    leaf: str = ""


@dataclass(frozen=True, slots=True)
class Cursor:
    """What the file says: positions by origin, and since when the sink takes nothing (epoch seconds)."""

    positions: dict[str, Position] = field(default_factory=dict)
    down_since: float | None = None


def load(path: Path) -> tuple[Cursor, str | None]:
    """The cursor, an empty one where there is none; and what is wrong with the file where it cannot be believed."""
    try:
        document = json.loads(path.read_bytes())
        if document["format"] != FORMAT:
            raise ValueError
        found = {}
        for origin, (at, leaf) in document["logs"].items():
            if type(at) is not int or at < 0 or not isinstance(leaf, str):
                raise ValueError
            found[str(origin)] = Position(at, leaf)
        down = document.get("down_since")
        if down is not None and not isinstance(down, int | float):
            raise ValueError
    except FileNotFoundError:
        return Cursor(), None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Cursor(), "its cursor cannot be read: everything is sent again"
    return Cursor(found, down), None


def save(path: Path, cursor: Cursor) -> None:
    """Replace the file. Raises OSError."""
    touched: set[Path] = set()
    logs = {origin: [position.next, position.leaf] for origin, position in cursor.positions.items()}
    document = {"format": FORMAT, "logs": logs, "down_since": cursor.down_since}
    files.write_file(path, json.dumps(document).encode() + b"\n", touched)
    files.sync_folders(touched)
