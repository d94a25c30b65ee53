"""How far a sink has got in each log, kept in a small file that survives a restart.

What is lost with it costs duplicates, never entries.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from cloister.ledger import files

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Position:
    """Entries below `next` were taken by the receiver; `leaf` is the leaf hash of the last of them, in hex."""

    next: int = 0
    leaf: str = ""


def load(path: Path) -> tuple[dict[str, Position], str | None]:
    """The positions by origin, and what is wrong with the file where it cannot be believed."""
    try:
        document = json.loads(path.read_bytes())
        if document["format"] != FORMAT:
            raise ValueError
        found = {}
        for origin, (at, leaf) in document["logs"].items():
            if type(at) is not int or at < 0 or not isinstance(leaf, str):
                raise ValueError
            found[str(origin)] = Position(at, leaf)
    except FileNotFoundError:
        return {}, None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}, "its cursor cannot be read: everything is sent again"
    return found, None


def save(path: Path, positions: dict[str, Position]) -> None:
    """Replace the file. Raises OSError."""
    touched: set[Path] = set()
    logs = {origin: [position.next, position.leaf] for origin, position in positions.items()}
    files.write_file(path, json.dumps({"format": FORMAT, "logs": logs}).encode() + b"\n", touched)
    files.sync_folders(touched)
