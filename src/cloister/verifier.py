#!/usr/bin/env python3
"""The ledger's verifier: checks a log, or a copy of it, offline, with nothing but its public key.

One file for an auditor: it needs Python 3.11 and `cryptography`, imports nothing of Cloister and shares no
code with what writes the log. Formats: C2SP tlog-tiles, tlog-checkpoint and signed-note; RFC 6962 hashing.

    python verifier.py DIR --key VKEY [--since TREE_HEAD] [--json]
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import itertools
import json
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_sha = hashlib.sha256
_EMPTY = _sha(b"").digest()
_WIDTH = 256
_TILE = 32 * _WIDTH
_MAX_NOTE = 1 << 20
_MAX_FILE = _WIDTH * (2 + 0xFFFF) + 1


class VerificationError(Exception):
    """What was checked is not right; the message says what."""


@dataclass(frozen=True)
class VerifierKey:
    """An Ed25519 public key and the name it signs under."""

    name: str
    id: bytes
    public: bytes


@dataclass(frozen=True)
class TreeHead:
    """What a signed note states: the log's origin, its size, and the root hash at that size."""

    origin: str
    size: int
    root: bytes


@dataclass
class Report:
    """What `verify_log` found.

    `signed` entries stand under the signed tree head, whose `root` (base64) was recomputed from the
    entries; `unsigned` ones are in the journal only. No `problems`: the log is what its key signed.
    """

    entries: int = 0
    signed: int = 0
    unsigned: int = 0
    origin: str = ""
    root: str = ""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems


# --- signed notes ------------------------------------------------------------------------------------


def parse_vkey(text: str) -> VerifierKey:
    """Read `<name>+<key id>+<base64 key>`.

    Raises:
        VerificationError: it is none, or not of an Ed25519 key.
    """
    parts = text.strip().split("+", 2)
    if len(parts) != 3 or not _is_name(parts[0]):
        raise VerificationError("the verifier key has not the form name+id+key")
    name, key_id, encoded = parts
    raw = _base64(encoded, "the verifier key")
    if len(raw) != 33 or raw[0] != 1:
        raise VerificationError("the verifier key is not an Ed25519 key")
    expected = _sha(name.encode() + b"\n" + raw).digest()[:4]
    if key_id != expected.hex():
        raise VerificationError("the verifier key's id does not match its key")
    return VerifierKey(name, expected, raw[1:])


def verify_note(note: bytes, key: VerifierKey) -> str:
    """The text of a signed note, once the key's signature under it is found and right.

    Raises:
        VerificationError: the note is malformed, not signed by the key, or wrongly signed.
    """
    try:
        text = note.decode()
    except UnicodeDecodeError:
        raise VerificationError("the note is not UTF-8") from None
    if len(note) > _MAX_NOTE or re.search(r"[\x00-\x09\x0b-\x1f]", text):
        raise VerificationError("the note is too long or holds control characters")
    body, blank, signatures = text.rpartition("\n\n")
    if not blank or not signatures.endswith("\n"):
        raise VerificationError("the note carries no signature")
    body += "\n"
    signed = False
    for line in signatures[:-1].split("\n"):
        match = re.fullmatch("\N{EM DASH} ([^ ]+) ([A-Za-z0-9+/=]+)", line)
        if match is None or not _is_name(match[1]):
            raise VerificationError("a signature line of the note is malformed")
        raw = _base64(match[2], "a signature of the note")
        if len(raw) < 5:
            raise VerificationError("a signature line of the note is malformed")
        if (match[1], raw[:4]) != (key.name, key.id):
            continue
        verify_ed25519(key.public, raw[4:], body.encode())
        signed = True
    if not signed:
        raise VerificationError(f"the note is not signed by {key.name}")
    return body


def verify_ed25519(public: bytes, signature: bytes, message: bytes) -> None:
    """Raises VerificationError unless it is the key's signature of the message."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise VerificationError("the signature is wrong") from None


def parse_tree_head(text: str) -> TreeHead:
    """Read the text of a tree head (`verify_note` comes first).

    Raises:
        VerificationError: it has not that form.
    """
    lines = text.split("\n")
    if len(lines) < 4 or not all(lines[:-1]) or lines[-1]:
        raise VerificationError("the tree head has not three lines of text")
    if not re.fullmatch("0|[1-9][0-9]{0,18}", lines[1]):
        raise VerificationError("the tree head's size is malformed")
    root = _base64(lines[2], "the tree head's root")
    if len(root) != 32:
        raise VerificationError("the tree head's root is malformed")
    return TreeHead(lines[0], int(lines[1]), root)


def _is_name(text: str) -> bool:
    return bool(text) and "+" not in text and not any(character.isspace() for character in text)


def _base64(text: str, what: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:
        raise VerificationError(f"{what} is not base64") from None
    if base64.b64encode(raw).decode() != text:
        raise VerificationError(f"{what} is not base64 in its one form")
    return raw


# --- proofs (RFC 6962, verified as in RFC 9162 sections 2.1.3.2 and 2.1.4.2) ----------------------------


def verify_inclusion(index: int, size: int, leaf_hash: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """Raises VerificationError unless the proof shows the leaf at `index` of the tree of `size` leaves."""
    if not 0 <= index < size:
        raise VerificationError("the proof's index is not in its tree")
    _check_hashes([leaf_hash, root, *proof])
    position, last, value = index, size - 1, leaf_hash
    for step in proof:
        if last == 0:
            raise VerificationError("the proof is too long")
        if position & 1 or position == last:
            value = _node(step, value)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            value = _node(value, step)
        position, last = position >> 1, last >> 1
    if last or value != root:
        raise VerificationError("the proof does not lead to the root")


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Raises VerificationError unless the proof shows the tree of `old` leaves to begin that of `new`."""
    if not 0 < old <= new:
        raise VerificationError("the older tree is empty, which shows nothing, or larger than the newer")
    if old == new:
        if proof:
            raise VerificationError("the proof is too long")
        if old_root != new_root:
            raise VerificationError("the roots do not match")
        return
    _check_hashes([old_root, new_root, *proof])
    path = list(proof)
    if old & (old - 1) == 0:
        path.insert(0, old_root)
    if not path:
        raise VerificationError("the proof is too short")
    position, last = old - 1, new - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    before = after = path[0]
    for step in path[1:]:
        if last == 0:
            raise VerificationError("the proof is too long")
        if position & 1 or position == last:
            before, after = _node(step, before), _node(step, after)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            after = _node(after, step)
        position, last = position >> 1, last >> 1
    if last or before != old_root or after != new_root:
        raise VerificationError("the proof does not connect the roots")


def _check_hashes(hashes: Sequence[bytes]) -> None:
    if any(len(value) != 32 for value in hashes):
        raise VerificationError("a hash of the proof has not 32 bytes")


def _node(left: bytes, right: bytes) -> bytes:
    return _sha(b"\x01" + left + right).digest()


def _tree_root(row: bytes) -> bytes:
    """Root over concatenated hashes, any number of them."""
    hashes = [row[i : i + 32] for i in range(0, len(row), 32)]
    if not hashes:
        return _EMPTY
    while len(hashes) > 1:
        pairs = [_sha(b"\x01" + a + b).digest() for a, b in zip(hashes[::2], hashes[1::2], strict=False)]
        hashes = pairs + hashes[len(pairs) * 2 :]
    return hashes[0]


def _edge_root(edges: Sequence[bytes]) -> bytes:
    """Root of a tree from the partial tiles of its right edge, level 0 first."""
    root = b""
    for edge in edges:
        hashes = [edge[i : i + 32] for i in range(0, len(edge), 32)]
        peaks: list[bytes] = []
        start = 0
        for bit in range(8, -1, -1):
            if len(hashes) >> bit & 1:
                peaks.append(_tree_root(b"".join(hashes[start : start + (1 << bit)])))
                start += 1 << bit
        for peak in reversed(peaks):
            root = _node(peak, root) if root else peak
    return root or _EMPTY


# --- a whole log -----------------------------------------------------------------------------------------


def verify_log(folder: Path | str, vkey: str, *, since: bytes | None = None) -> Report:
    """Check every file of a log or of a copy of it.

    Args:
        folder: where `checkpoint`, `tile/` and perhaps `journal/` lie. A log in use may be checked too.
        vkey: the log's public key, from somewhere else than the folder.
        since: a tree head, signed by the same key, that this log must have grown from.
    """
    root = Path(folder)
    key = parse_vkey(vkey)
    for _ in range(10):
        note, journal = _read(root / "checkpoint"), _journal_files(root)
        report = _Log(root, key, note, since).verify()
        if report.ok or (_read(root / "checkpoint"), _journal_files(root)) == (note, journal):
            break  # else the log moved on while it was read
    return report


def _journal_files(root: Path) -> list[Path]:
    return sorted(path for path in (root / "journal").glob("*") if path.name.isdigit())


class _Log:
    """One look at one log. `rows[level]` are the hashes of a level as computed from the level below."""

    def __init__(self, root: Path, key: VerifierKey, note: bytes | None, since: bytes | None) -> None:
        self.root, self.key, self.note, self.since = root, key, note, since
        self.report = Report(origin=key.name)
        self.size = 0
        self.rows: list[bytearray] = [bytearray()]
        self.edge_leaves = b""
        self.last_tile = (-1, b"")
        self.sound = True
        """False: tiles and tree head belong to different trees, so nothing else can be compared with them."""
        self.mixed: list[tuple[int, bytes, bytes]] = []

    def verify(self) -> Report:
        report = self.report
        # Listed before the journal is read: in a log in use it then holds all that these files do.
        paths = sorted(path for path in (self.root / "tile").rglob("*") if path.suffix != ".tmp")
        head = self._tree_head()
        if head is not None:
            self._signed(head)
        journal = self._journal()
        report.signed, report.unsigned = self.size, len(journal)
        report.entries = self.size + len(journal)
        if self.sound:
            self._other_files(paths, journal)
        return report

    def problem(self, path: Path, what: str) -> None:
        line = f"{path.relative_to(self.root)}: {what}"
        if line not in self.report.problems:
            self.report.problems.append(line)

    def path(self, level: int | str, index: int, width: int = _WIDTH) -> Path:
        groups = re.findall("...", str(index).zfill((len(str(index)) + 2) // 3 * 3))
        name = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
        return self.root / "tile" / str(level) / (name if width == _WIDTH else f"{name}.p/{width}")

    def _tree_head(self) -> TreeHead | None:
        path = self.root / "checkpoint"
        if self.note is None:
            # A log that was ever signed begins with a signed head of the empty tree.
            if (self.root / "tile").exists():
                self.problem(path, "missing")
            self.report.notes.append("no tree head: nothing is signed")
            self._since(None)
            return None
        try:
            head = parse_tree_head(verify_note(self.note, self.key))
        except VerificationError as error:
            self.problem(path, str(error))
            self.sound = False
            return None
        if head.origin != self.key.name:
            self.problem(path, "its origin is not the name of the key")
        self.report.origin, self.report.root = head.origin, base64.b64encode(head.root).decode()
        self.size = head.size
        return head

    def _widest(self, level: int | str, index: int, width: int) -> tuple[Path, bytes | None]:
        """The file that holds the first `width` elements: the exact one, or a wider one."""
        exact = self.path(level, index, width)
        for path in [exact, self.path(level, index)]:
            if (data := _read(path)) is not None:
                return path, data
        for wide in range(width + 1, _WIDTH):
            if (data := _read(self.path(level, index, wide))) is not None:
                return self.path(level, index, wide), data
        return exact, None

    def _tile(self, level: int, index: int, width: int) -> tuple[Path, bytes | None]:
        """The first `width` hashes of a tile; None, and a problem, where they are missing or malformed."""
        path, data = self._widest(level, index, width)
        if data is None:
            self.problem(path, "missing")
        elif len(data) != 32 * _width_of(path):
            self.problem(path, "has not the size that its name says")
            data = None
        return path, None if data is None else data[: 32 * width]

    def _bundle(self, index: int, width: int) -> tuple[Path, bytes | None]:
        """The leaf hashes of the first `width` entries of a bundle, or None and a problem."""
        path, data = self._widest("entries", index, width)
        if data is None:
            self.problem(path, "missing")
            return path, None
        entries = _split(data)
        if entries is None or len(entries) != _width_of(path):
            self.problem(path, "malformed: its entries do not fill it")
            return path, None
        return path, b"".join([_sha(b"\x00" + entry).digest() for entry in entries[:width]])

    def _signed(self, head: TreeHead) -> None:
        """Compute the tree from its entries, compare every tile, and find which file is wrong."""
        differing: list[tuple[Path, str]] = []
        edges, stored = [], []
        for index, width in _tiles(self.size):
            bundle_path, leaves = self._bundle(index, width)
            tile_path, tile = self._tile(0, index, width)
            chosen = leaves if leaves is not None else tile if tile is not None else bytes(32 * width)
            if leaves is not None and tile is not None and leaves != tile:
                above = self._stored_hash(1, index) if width == _WIDTH else None
                if above is not None and above == _tree_root(tile):
                    self.problem(bundle_path, "does not match the tree")
                    chosen = tile
                else:
                    differing.append((tile_path, "does not match the tree"))
                    self.mixed.append((index, leaves, tile))
            if width == _WIDTH:
                self._push(1, _tree_root(chosen))
            else:
                self.edge_leaves = chosen
                edges, stored = [chosen], [tile or chosen]
        edges, stored = edges or [b""], stored or [b""]
        level = 1
        while self.size >> (8 * level):
            row = self.rows[level]
            for index, width in _tiles(self.size >> (8 * level)):
                computed = bytes(row[_TILE * index : _TILE * index + 32 * width])
                path, tile = self._tile(level, index, width)
                if tile is not None and tile != computed:
                    differing.append((path, "does not match the tree"))
                if width == _WIDTH:
                    self._push(level + 1, _tree_root(computed))
                else:
                    edges.append(computed)
                    stored.append(tile or computed)
            if not (self.size >> (8 * level)) % _WIDTH:
                edges.append(b"")
                stored.append(b"")
            level += 1
        if _edge_root(edges) == head.root:
            for path, what in differing:
                self.problem(path, what)
            self._since(edges)
        else:
            self._blame(head, edges, stored)

    def _push(self, level: int, value: bytes) -> None:
        if level == len(self.rows):
            self.rows.append(bytearray())
        self.rows[level] += value

    def _stored_hash(self, level: int, index: int) -> bytes | None:
        """One hash as the tile above says, without reporting anything."""
        count = self.size >> (8 * level)
        tile = index // _WIDTH
        _, data = self._widest(level, tile, min(count - tile * _WIDTH, _WIDTH))
        at = 32 * (index % _WIDTH)
        return data[at : at + 32] if data is not None and len(data) >= at + 32 else None

    def _blame(self, head: TreeHead, edges: list[bytes], stored: list[bytes]) -> None:
        """The entries do not give the signed root: follow the tiles from the root down to where they part."""
        trusted = None
        for choice in range(1 << len(edges)):
            mix = [stored[level] if choice >> level & 1 else edges[level] for level in range(len(edges))]
            if _edge_root(mix) == head.root:
                trusted = mix
                break
        if trusted is None:
            self.sound = False
            if not self.report.problems:
                self.problem(self.root / "checkpoint", "its root is not that of the entries and tiles here")
            for index, _, _ in self.mixed:
                self.problem(self.path("entries", index, self._width(0, index)), "does not match its tile")
            return
        self.edge_leaves = trusted[0]
        for level, hashes in enumerate(trusted):
            count = self.size >> (8 * level)
            if level == 0 and hashes != edges[0]:
                path = self._widest("entries", count // _WIDTH, count % _WIDTH)[0]
                self.problem(path, "does not match the tree")
            elif hashes != stored[level]:
                path = self._widest(level, count // _WIDTH, count % _WIDTH)[0]
                self.problem(path, "does not match the tree")
        for level in range(len(trusted) - 1, 0, -1):
            self._descend(level, trusted[level])

    def _descend(self, level: int, edge: bytes) -> None:
        """Compare the full tiles below `level` with what the trusted hashes of `level` say of them."""
        count = self.size >> (8 * level)
        for index in range(count):
            tile, place = divmod(index, _WIDTH)
            if tile == count // _WIDTH:
                says = edge[32 * place : 32 * place + 32]
            else:
                says = self._stored_hash(level, index) or b""
            if bytes(self.rows[level][32 * index : 32 * index + 32]) == says:
                continue
            if says:
                self.rows[level][32 * index : 32 * index + 32] = says
            data = _read(self.path(level - 1, index))
            if data is None or _tree_root(data) != says:
                self.problem(self.path(level - 1, index), "does not match the tree")
                if level == 1:
                    self.problem(self.path("entries", index), "does not match the tree")
            elif level == 1:
                self.problem(self.path("entries", index), "does not match the tree")

    def _width(self, level: int, index: int) -> int:
        return min((self.size >> (8 * level)) - index * _WIDTH, _WIDTH)

    def _since(self, edges: list[bytes] | None) -> None:
        """Compare with an older tree head: its tree must be a prefix of this one."""
        if self.since is None:
            return
        path = self.root / "checkpoint"
        try:
            older = parse_tree_head(verify_note(self.since, self.key))
        except VerificationError as error:
            self.report.problems.append(f"the older tree head: {error}")
            return
        if edges is None or older.size > self.size:
            self.problem(path, f"rolled back: a tree head of {older.size} entries was signed before")
            return
        past = []
        for level in range(len(edges)):
            first, width = divmod(older.size >> (8 * level), _WIDTH)
            if level and width:
                past.append(bytes(self.rows[level][_TILE * first : _TILE * first + 32 * width]))
            elif width:
                past.append((self._tile(0, first, width)[1]) or b"")
            else:
                past.append(b"")
        if _edge_root(past) != older.root:
            self.problem(path, f"forked: it does not continue the tree head of {older.size} entries")

    # --- the journal: what is durable, and signed only later ------------------------------------------

    def _journal(self) -> list[bytes]:
        """The entries beyond the signed tree head; those below it are compared with their leaves."""
        folder = self.root / "journal"
        entries: list[bytes] = []
        end = -1
        names = _journal_files(self.root)
        for path in names:
            for number, (first, found) in enumerate(self._frames(path)):
                if first != end if number else first > max(end, self.size):
                    self.problem(path, f"entries are missing before entry {first}")
                    return entries
                if first < end:
                    del entries[max(first - self.size, 0) :]  # taken up again after a failure
                self._compare(path, first, found)
                entries.extend(found[max(self.size - first, 0) :])
                end = first + len(found)
        emergency = folder / "emergency"
        for first, found in self._frames(emergency) if emergency.exists() else ():
            for index, entry in enumerate(found, first):
                position = index - self.size
                if position > len(entries):
                    self.problem(emergency, f"entries are missing before entry {index}")
                elif position < 0:
                    self._compare(emergency, index, [entry])
                elif entries[position : position + 1] != [entry]:
                    entries[position:] = [entry]  # what else claims its place was never durable
            end = max(end, first + len(found))
        if 0 <= end < self.size:
            self.problem(names[-1] if names else emergency, "ends before the signed tree head")
        for index, entry in enumerate(entries, self.size):
            try:
                json.loads(entry)
            except ValueError:
                self.problem(folder, f"entry {index} is not JSON")
        return entries

    def _compare(self, path: Path, first: int, entries: Sequence[bytes]) -> None:
        for index, entry in enumerate(entries[: max(self.size - first, 0)], first):
            tile, place = divmod(index, _WIDTH)
            if self.last_tile[0] != tile:
                self.last_tile = (tile, self._widest(0, tile, self._width(0, tile))[1] or b"")
            says = self.last_tile[1][32 * place : 32 * place + 32]
            if says and says != _sha(b"\x00" + entry).digest():
                self.problem(path, f"entry {index} is not the one in the tree")

    def _frames(self, path: Path) -> Iterator[tuple[int, list[bytes]]]:
        """The sound frames of a journal file: (first index, entries). A torn end is noted, damage reported."""
        data = _read(path, -1) or b""
        digest = _sha(b"cloister ledger journal\n" + self.key.name.encode()).digest()
        at = 0
        while length := _frame_length(data, at):
            stop = at + length
            digest = _sha(digest + data[at : stop - 33]).digest()
            entries = _split(data[at + 24 : stop - 33])
            if data[stop - 33 : stop] != digest + b"\xa5" or not entries:
                break
            if len(entries) != int.from_bytes(data[at + 16 : at + 20], "big"):
                break
            yield int.from_bytes(data[at + 8 : at + 16], "big"), entries
            at = stop
        if data[at:].strip(b"\x00"):
            if _is_torn(data, at):
                name = path.relative_to(self.root)
                self.report.notes.append(f"{name}: a torn write at byte {at}, never acknowledged")
            else:
                self.problem(path, f"damaged at byte {at}")

    # --- everything else below tile/ ----------------------------------------------------------------------

    def _other_files(self, paths: Sequence[Path], journal: Sequence[bytes]) -> None:
        """Compare what was not needed so far: partial tiles of smaller trees, tiles ahead of the head."""
        leaves = self.edge_leaves + b"".join(_sha(b"\x00" + entry).digest() for entry in journal)
        base = self.size // _WIDTH
        rows = [bytearray(leaves), *self.rows[1:]]
        level = 0
        while len(rows[level]) >= _TILE:
            if level + 1 == len(rows):
                rows.append(bytearray())
            done = len(rows[level + 1]) // 32 - (base if level == 0 else 0)
            for index in range(max(done, 0), len(rows[level]) // _TILE):
                rows[level + 1] += _tree_root(bytes(rows[level][_TILE * index : _TILE * (index + 1)]))
            level += 1
        for path in paths:
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                if path.is_symlink() or path.exists():  # else a log in use has done away with it
                    self.problem(path, "is neither a file nor a folder")
            elif path.is_file():
                self._other_file(path, rows, base)

    def _other_file(self, path: Path, rows: list[bytearray], base: int) -> None:
        parsed = re.fullmatch(
            r"(entries|[0-9]{1,2})/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?",
            str(path.relative_to(self.root / "tile")),
        )
        if parsed is None:
            self.problem(path, "is not a file of this log")
            return
        level, index = parsed[1], int(re.sub("[x/]", "", parsed[2]))
        width = int(parsed[3] or _WIDTH)
        number = 0 if level == "entries" else int(level)
        if parsed[3] is None and index < (self.size >> (8 * number)) // _WIDTH:
            return  # compared before
        data = _read(path)
        if data is None:
            return
        if path != self.path(level, index, width):
            self.problem(path, "is not a file of this log")
        elif number == 0 and index < base:
            full = _read(self.path(level, index)) or b""
            if not full.startswith(data) or not _holds(level, data, width):
                self.problem(path, "does not match the full tile")
        elif level == "entries":
            entries = _split(data)
            hashes = b"".join(_sha(b"\x00" + entry).digest() for entry in entries or ())
            at = _TILE * (index - base)
            if len(hashes) != 32 * width or hashes != bytes(rows[0][at : at + 32 * width]):
                self.problem(path, "does not match the tree")
        else:
            at = _TILE * (index - (base if number == 0 else 0))
            row = rows[number] if number < len(rows) else b""
            if len(data) != 32 * width or data != bytes(row[at : at + 32 * width]):
                self.problem(path, "does not match the tree")


def _holds(level: str, data: bytes, width: int) -> bool:
    """Whether a bundle or tile holds just that many elements."""
    return (len(_split(data) or ()) if level == "entries" else len(data) / 32) == width


def _tiles(count: int) -> Iterator[tuple[int, int]]:
    """(index, width) of the tiles that hold `count` elements."""
    for start in range(0, count, _WIDTH):
        yield start // _WIDTH, min(count - start, _WIDTH)


def _width_of(path: Path) -> int:
    return int(path.name) if path.parent.suffix == ".p" else _WIDTH


def _read(path: Path, limit: int = _MAX_FILE) -> bytes | None:
    """A file, or the start of one that is longer than any of its kind, which then does not fit its name."""
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _split(data: bytes) -> list[bytes] | None:
    """Entries, each behind its length in two bytes; None where the lengths do not fit."""
    entries = []
    at, end = 0, len(data)
    while at < end:
        if at + 2 > end:
            return None
        stop = at + 2 + (data[at] << 8 | data[at + 1])
        entries.append(data[at + 2 : stop])
        at = stop
    return entries if at == end else None


def _frame_length(data: bytes, at: int) -> int:
    """Length of the frame there, else 0. Its header: magic, body length, first index, count, CRC-32."""
    header = data[at : at + 24]
    if header[:4] != b"CLJ1" or zlib.crc32(header[:20]) != int.from_bytes(header[20:], "big"):
        return 0
    return 24 + int.from_bytes(header[4:8], "big") + 33


def _is_torn(data: bytes, at: int) -> bool:
    """Whether the last write reached the disk in part: a sector is still zeros, or its end is missing."""
    later = [match.start() for match in re.finditer(b"CLJ1", data[at + 1 :])]
    if any(_frame_length(data, at + 1 + start) for start in later):
        return False
    length = _frame_length(data, at)
    written = len(data.rstrip(b"\x00"))
    if written < at + (length or 24):
        return True
    cuts = [at, *range((at // 512 + 1) * 512, at + (length or 24), 512), at + (length or 24)]
    return any(not data[a:b].strip(b"\x00") for a, b in itertools.pairwise(cuts))


# --- the command -------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0: verified; 1: problems; 2: it could not be checked."""
    parser = argparse.ArgumentParser(description="Verify a ledger, or a copy of one, offline.")
    parser.add_argument("folder", type=Path, help="the folder that holds 'checkpoint' and 'tile'")
    parser.add_argument("--key", required=True, help="the log's verifier key, or a file that holds it")
    parser.add_argument("--since", type=Path, help="a file with an older signed tree head of this log")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(arguments)
    try:
        vkey = options.key if "+" in options.key else Path(options.key).read_text()
        since = None if options.since is None else options.since.read_bytes()
        if not options.folder.is_dir():
            raise VerificationError(f"{options.folder} is not a folder")
        report = verify_log(options.folder, vkey, since=since)
    except (VerificationError, OSError) as error:
        print(f"not verified: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps({**asdict(report), "ok": report.ok}))
    else:
        print(
            f"{report.origin}: {report.entries} entries, {report.signed} signed, {report.unsigned} unsigned"
        )
        if report.root:
            print(f"root {report.root}")
        for line in report.notes:
            print(f"note: {line}")
        for line in report.problems:
            print(f"PROBLEM: {line}")
        print("verified" if report.ok else f"NOT VERIFIED: {len(report.problems)} problems")
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
