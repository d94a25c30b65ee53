#!/usr/bin/env python3
"""The ledger's verifier: checks a log, a copy of one, or a proof, offline, with nothing but public keys.

One file for an auditor: it needs Python 3.11 and `cryptography`, imports nothing of Cloister and shares no
code with what writes the log. Formats: C2SP tlog-tiles, tlog-checkpoint, signed-note, tlog-cosignature and
tlog-proof; RFC 6962 hashing.

    python verifier.py verify DIR|FILE --key VKEY [--since TREE_HEAD] [--witness VKEY] [--json]
    python verifier.py witness DIR [--key VKEY] [--state FOLDER] [--json]

It takes everything that it reads for hostile: files are read in pieces or up to a limit, links are not
followed, and what it keeps in memory does not grow with the signed part of a log.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import fcntl
import hashlib
import heapq
import json
import os
import re
import socket
import stat
import sys
import time
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_sha = hashlib.sha256
_EMPTY = _sha(b"").digest()
_WIDTH = 256
_TILE = 32 * _WIDTH
_MAX_NOTE = 1 << 20
_MAX_SIGNATURES = 128
_MAX_FILE = _WIDTH * (2 + 0xFFFF) + 1
_MAX_JOURNAL = (1 << 32) + 64
_MAX_PROBLEMS = 1000
_MAX_NAMES = 4096
_MAX_EXTRAS = 100_000
_MAX_UNSIGNED = 1 << 24
_MAX_LOGS = 256
_PIECE = 1 << 20
_SKEW = 300
"""Seconds by which a clock elsewhere may be ahead of the one here."""
_ED25519, _COSIGNATURE = 1, 4
_PROOF_HEADER = "c2sp.org/tlog-proof@v1"
_NO_KEY = "no key was given for"
_ANCHOR = b'"action":"ledger.anchor"'


class VerificationError(Exception):
    """What was checked is not right; the message says what."""


class _EnoughError(Exception):
    """So much is wrong that looking for more makes no sense."""


@dataclass(frozen=True)
class VerifierKey:
    """An Ed25519 public key and the name it signs under; `kind` is the signature type of signed-note."""

    name: str
    id: bytes
    public: bytes
    kind: int = _ED25519

    def __str__(self) -> str:
        encoded = base64.b64encode(bytes([self.kind]) + self.public).decode()
        return f"{self.name}+{self.id.hex()}+{encoded}"


@dataclass(frozen=True)
class TreeHead:
    """What a signed note states: the log's origin, its size, and the root hash at that size."""

    origin: str
    size: int
    root: bytes


@dataclass(frozen=True)
class Cosignature:
    """A witness's word that at that time (seconds since 1970) the head of that size was the largest it knew."""

    witness: str
    size: int
    time: int


@dataclass(frozen=True)
class Past:
    """A tree head that the log must have grown from, and where it comes from."""

    size: int
    root: bytes
    what: str


@dataclass(frozen=True)
class Anchor:
    """Entry `index` of one log states the tree head, and the key, of another."""

    index: int
    origin: str
    size: int
    root: bytes
    vkey: str


@dataclass(frozen=True)
class Proof:
    """A tlog-proof: hashes from the leaf upwards; `extra` is our ledger's entry, `note` the signed tree head."""

    index: int
    hashes: tuple[bytes, ...]
    extra: bytes | None
    note: bytes


@dataclass
class Report:
    """What `verify_log` found.

    `signed` entries stand under the signed tree head, whose `root` (base64) was recomputed from the
    entries; `unsigned` ones are in the journal only. `anchors` is how many tree heads that other logs hold
    were compared. No `problems`: the log is what its key signed.
    """

    entries: int = 0
    signed: int = 0
    unsigned: int = 0
    origin: str = ""
    root: str = ""
    vkey: str = ""
    tree_head: str = ""
    anchors: int = 0
    cosignatures: list[Cosignature] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems


@dataclass
class ProofReport:
    """What `verify_proof` found: the entry at `index` is in the log of `size` entries that its key signed."""

    origin: str
    index: int
    size: int
    root: str
    entry: str
    cosignatures: list[Cosignature]


# --- signed notes ------------------------------------------------------------------------------------


def parse_vkey(text: str) -> VerifierKey:
    """Read a log's `<name>+<key id>+<base64 key>`.

    Raises:
        VerificationError: it is none, or not of an Ed25519 key.
    """
    return _parse_key(text, _ED25519, "an Ed25519 key")


def parse_witness_vkey(text: str) -> VerifierKey:
    """Read a witness's vkey (signature type 4, Ed25519 cosignatures). Raises as `parse_vkey`."""
    return _parse_key(text, _COSIGNATURE, "a witness's Ed25519 key")


def _parse_key(text: str, kind: int, what: str) -> VerifierKey:
    parts = text.strip().split("+", 2)
    if len(text) > 4096 or len(parts) != 3 or not _is_name(parts[0]):
        raise VerificationError("the verifier key has not the form name+id+key")
    name, key_id, encoded = parts
    raw = _base64(encoded, "the verifier key")
    if len(raw) != 33 or raw[0] != kind:
        raise VerificationError(f"the verifier key is not {what}")
    key = _key(name, kind, raw[1:])
    if key_id != key.id.hex():
        raise VerificationError("the verifier key's id does not match its key")
    return key


def _key(name: str, kind: int, public: bytes) -> VerifierKey:
    return VerifierKey(name, _sha(name.encode() + b"\n" + bytes([kind]) + public).digest()[:4], public, kind)


def _signatures(note: bytes) -> tuple[str, list[tuple[str, bytes, bytes]]]:
    """The text of a note, and name, key id and signature of each of its signature lines."""
    if len(note) > _MAX_NOTE:
        raise VerificationError("the note is too long")
    try:
        text = note.decode()
    except UnicodeDecodeError:
        raise VerificationError("the note is not UTF-8") from None
    if re.search(r"[\x00-\x09\x0b-\x1f]", text):
        raise VerificationError("the note holds control characters")
    body, blank, lines = text.rpartition("\n\n")
    if not blank or not lines.endswith("\n"):
        raise VerificationError("the note carries no signature")
    if lines.count("\n") > _MAX_SIGNATURES:
        raise VerificationError("the note carries too many signatures")
    found = []
    for line in lines[:-1].split("\n"):
        match = re.fullmatch("\N{EM DASH} ([^ ]+) ([A-Za-z0-9+/=]+)", line)
        if match is None or not _is_name(match[1]):
            raise VerificationError("a signature line of the note is malformed")
        raw = _base64(match[2], "a signature of the note")
        if len(raw) < 5:
            raise VerificationError("a signature line of the note is malformed")
        found.append((match[1], raw[:4], raw[4:]))
    return body + "\n", found


def verify_note(note: bytes, key: VerifierKey) -> str:
    """The text of a signed note, once the key's signature under it is found and right.

    Raises:
        VerificationError: the note is malformed, not signed by the key, or wrongly signed.
    """
    body, signatures = _signatures(note)
    signed = False
    for name, key_id, signature in signatures:
        if (name, key_id) == (key.name, key.id):
            verify_ed25519(key.public, signature, body.encode())
            signed = True
    if not signed:
        raise VerificationError(f"the note is not signed by {key.name}")
    return body


def verify_cosignatures(note: bytes, witnesses: Iterable[VerifierKey], now: float) -> list[Cosignature]:
    """The cosignatures of these witnesses under a tree head; those of others are ignored.

    Raises:
        VerificationError: one of them is wrong, or dated in the future.
    """
    body, signatures = _signatures(note)
    size = parse_tree_head(body).size
    known = {(key.name, key.id): key for key in witnesses}
    found: dict[str, Cosignature] = {}
    for name, key_id, signature in signatures:
        key = known.get((name, key_id))
        if key is None:
            continue
        moment = int.from_bytes(signature[:8], "big")
        if len(signature) != 72 or not 0 < moment < 1 << 63:
            raise VerificationError(f"the cosignature of {name} is malformed")
        try:
            verify_ed25519(key.public, signature[8:], _cosigned(body, moment))
        except VerificationError:
            raise VerificationError(f"the cosignature of {name} is not one of this tree head") from None
        if moment > now + _SKEW:
            raise VerificationError(f"the cosignature of {name} is dated in the future")
        found[name] = Cosignature(name, size, moment)
    return list(found.values())


def _cosigned(body: str, moment: int) -> bytes:
    return f"cosignature/v1\ntime {moment}\n{body}".encode()


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
    if not re.fullmatch("0|[1-9][0-9]{0,18}", lines[1], re.ASCII):
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


def parse_json(data: bytes) -> Any:
    """A JSON value whose objects name no key twice.

    Raises:
        VerificationError: it is none, or is nested too deeply.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        document = dict(pairs)
        if len(document) != len(pairs):
            raise VerificationError("names a key twice")
        return document

    def refuse(_: str) -> Any:
        raise VerificationError("is not JSON")

    try:
        return json.loads(data, object_pairs_hook=once, parse_constant=refuse)
    except (ValueError, RecursionError):
        raise VerificationError("is not JSON") from None


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


def parse_proof(data: bytes) -> Proof:
    """Read a tlog-proof. Nothing in it is believed yet.

    Raises:
        VerificationError: it has not that form.
    """
    if len(data) > _MAX_NOTE:
        raise VerificationError("the proof is too long")
    try:
        head, blank, note = data.decode().partition("\n\n")
    except UnicodeDecodeError:
        raise VerificationError("the proof is not UTF-8") from None
    lines = head.split("\n")
    if not blank or lines.pop(0) != _PROOF_HEADER:
        raise VerificationError(f"this is no proof: it does not begin with {_PROOF_HEADER}")
    extra = None
    if lines and lines[0].startswith("extra "):
        extra = _base64(lines.pop(0)[6:], "the proof's extra data")
    match = re.fullmatch("index (0|[1-9][0-9]{0,18})", lines.pop(0), re.ASCII) if lines else None
    if match is None:
        raise VerificationError("the proof names no index")
    if len(lines) > 63:
        raise VerificationError("the proof has more hashes than a tree has levels")
    hashes = tuple(_base64(line, "a hash of the proof") for line in lines)
    _check_hashes(hashes)
    return Proof(int(match[1]), hashes, extra, note.encode())


def verify_proof(
    data: bytes,
    keys: Sequence[VerifierKey],
    *,
    witnesses: Sequence[VerifierKey] = (),
    entry: bytes | None = None,
    now: float | None = None,
) -> ProofReport:
    """Check a tlog-proof: the entry (its extra data unless given) is in the log that one of the keys signed.

    Every one of `witnesses` must have cosigned the tree head.

    Raises:
        VerificationError: it is not shown.
    """
    proof = parse_proof(data)
    entry = proof.extra if entry is None else entry
    if entry is None:
        raise VerificationError("the proof does not hold its entry: give it with --entry")
    origin = _origin_of(proof.note)
    key = next((key for key in keys if key.name == origin), None)
    if key is None:
        raise VerificationError("the tree head's origin is not the name of a key that was given")
    head = parse_tree_head(verify_note(proof.note, key))
    cosignatures = verify_cosignatures(proof.note, witnesses, time.time() if now is None else now)
    if missing := {key.name for key in witnesses} - {one.witness for one in cosignatures}:
        raise VerificationError(f"no cosignature of {', '.join(sorted(missing))} stands under the tree head")
    verify_inclusion(proof.index, head.size, _sha(b"\x00" + entry).digest(), proof.hashes, head.root)
    try:
        shown = json.dumps(parse_json(entry))
    except VerificationError as error:
        raise VerificationError(f"the entry {error}") from None
    root = base64.b64encode(head.root).decode()
    return ProofReport(head.origin, proof.index, head.size, root, shown, cosignatures)


def _origin_of(note: bytes) -> str:
    """What a note claims to be about, not checked."""
    return note[:4096].partition(b"\n")[0].decode(errors="replace")


def _check_hashes(hashes: Sequence[bytes]) -> None:
    if any(len(value) != 32 for value in hashes):
        raise VerificationError("a hash of the proof has not 32 bytes")


def _node(left: bytes, right: bytes) -> bytes:
    return _sha(b"\x01" + left + right).digest()


def _tree_root(row: bytes) -> bytes:
    """Root over concatenated hashes, a power of two of them."""
    hashes = [row[i : i + 32] for i in range(0, len(row), 32)]
    while len(hashes) > 1:
        pairs = iter(hashes)
        hashes = [_sha(b"\x01" + a + b).digest() for a, b in zip(pairs, pairs, strict=True)]
    return hashes[0]


def _peaks(row: bytes) -> list[bytes]:
    """Roots of the perfect trees over a row of hashes, the largest first."""
    found, start, count = [], 0, len(row) // 32
    for bit in range(count.bit_length() - 1, -1, -1):
        if count >> bit & 1:
            found.append(_tree_root(row[start : start + (32 << bit)]))
            start += 32 << bit
    return found


def _edge_root(edges: Sequence[bytes]) -> bytes:
    """Root of a tree from the partial tiles of its right edge, level 0 first."""
    root = b""
    for edge in edges:
        for peak in reversed(_peaks(edge)):
            root = _node(peak, root) if root else peak
    return root or _EMPTY


# --- files, none of them trusted ---------------------------------------------------------------------------


def _open(path: Path | str) -> int | None:
    """A plain file, open for reading, or None where there is none.

    Raises:
        VerificationError: it is a link, a pipe, a device or a folder.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if Path(path).is_symlink():
            raise VerificationError("is a link") from None
        raise VerificationError(f"cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise VerificationError("is not a plain file")
    return descriptor


def _read(path: Path | str, limit: int = _MAX_FILE) -> bytes | None:
    """A file, or the start of one that is longer than any of its kind, which then does not fit its name."""
    descriptor = _open(path)
    if descriptor is None:
        return None
    try:
        return _read_at(descriptor, 0, limit)
    except OSError as error:
        raise VerificationError(f"cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)


def _read_at(descriptor: int, at: int, length: int) -> bytes:
    data = os.pread(descriptor, length, at)
    while 0 < len(data) < length and (more := os.pread(descriptor, length - len(data), at + len(data))):
        data += more
    return data


def _pieces(descriptor: int, at: int, stop: int) -> Iterator[tuple[int, bytes]]:
    while at < stop and (data := os.pread(descriptor, min(_PIECE - at % 512, stop - at), at)):
        yield at, data
        at += len(data)


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


def _tiles(count: int) -> Iterator[tuple[int, int]]:
    """(index, width) of the tiles that hold `count` elements."""
    for index in range(count // _WIDTH):
        yield index, _WIDTH
    if count % _WIDTH:
        yield count // _WIDTH, count % _WIDTH


def _tile_path(root: Path, level: int | str, index: int, width: int = _WIDTH) -> str:
    name = f"{index % 1000:03d}"
    while index := index // 1000:
        name = f"x{index % 1000:03d}/{name}"
    return f"{root}/tile/{level}/{name}" if width == _WIDTH else f"{root}/tile/{level}/{name}.p/{width}"


def _widest(root: Path, level: int | str, index: int, width: int) -> tuple[str, int, bytes | None]:
    """The file that holds the first `width` elements, its width and its data: the exact one, or a wider one."""
    exact = _tile_path(root, level, index, width)
    if (data := _read(exact)) is not None:
        return exact, width, data
    if width < _WIDTH:
        for wide in (_WIDTH, *range(width + 1, _WIDTH)):
            path = _tile_path(root, level, index, wide)
            if (data := _read(path)) is not None:
                return path, wide, data
    return exact, width, None


# --- a whole log -----------------------------------------------------------------------------------------


def verify_log(
    folder: Path | str,
    vkey: str,
    *,
    since: bytes | None = None,
    witnesses: Sequence[VerifierKey] = (),
    past: Callable[[], Iterator[Past]] | None = None,
    strict: bool = False,
    now: float | None = None,
) -> Report:
    """Check every file of a log or of a copy of it.

    Args:
        folder: where `checkpoint`, `tile/` and perhaps `journal/` lie. A log in use may be checked too.
        vkey: the log's public key, from somewhere else than the folder.
        since: a tree head, signed by the same key, that this log must have grown from.
        witnesses: keys of witnesses, each of which must have cosigned a tree head that is kept with the log.
        past: gives further heads that it must have grown from, smallest first.
        strict: also read each entry, which must be JSON that names no key twice. It takes three times as long.
        now: seconds since 1970; what is dated later than that has a false date.
    """
    root = Path(folder)
    key = parse_vkey(vkey)
    moment = time.time() if now is None else now
    for _ in range(10):
        state = _moving(root)
        report = _Log(root, key, since, witnesses, past, strict, moment).verify()
        if report.ok or _moving(root) == state:
            break  # else the log moved on while it was read
    return report


def _moving(root: Path) -> object:
    """What changes when a log that is in use goes on."""
    try:
        return _read(root / "checkpoint", _MAX_NOTE), _journal_names(root)
    except VerificationError:
        return None


def _journal_names(root: Path) -> list[str]:
    """The journal's files, in the order of their numbers."""
    folder = root / "journal"
    if folder.is_symlink():
        raise VerificationError("is a link")
    found: list[str] = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as listed:
        for entry in listed:
            if re.fullmatch("[0-9]+", entry.name, re.ASCII):
                found.append(entry.name)
                if len(found) > _MAX_NAMES:
                    raise VerificationError("holds too many files")
    return sorted(found)


class _Log:
    """One look at one log, from the entries upwards: of each level it keeps the unfinished tile only."""

    def __init__(
        self,
        root: Path,
        key: VerifierKey,
        since: bytes | None,
        witnesses: Sequence[VerifierKey],
        past: Callable[[], Iterator[Past]] | None,
        strict: bool,
        now: float,
    ) -> None:
        self.strict = strict
        self.root, self.key, self.since, self.witnesses, self.now = root, key, since, witnesses, now
        self.report = Report(origin=key.name, vkey=str(key))
        self.size = 0
        self.edges: list[bytes] = [b""]
        """Right edge of the tree as the entries give it, level 0 first."""
        self.last_tile = (-1, b"")
        self.differing: list[tuple[int, int]] = []
        """(level, index) of tiles that are not what the entries below them give."""
        self.sound = True
        """False: tiles and tree head belong to different trees, so nothing else can be compared with them."""
        self.missed: list[str] = []
        """What is wrong with heads of before, if the root is right."""
        self._heads: list[Past] = []
        self._anchored = past
        limit = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(min(now + _SKEW, 1 << 37)))
        self._latest = limit.encode()

    def verify(self) -> Report:
        report = self.report
        try:
            head = self._tree_head()
            # Listed before the journal is read: in a log in use it then holds all that these files do.
            extras = list(self._extras())
            self._kept_heads()
            if head is not None:
                self._signed(head)
            leaves = self._journal()
            report.signed, report.unsigned = self.size, len(leaves)
            report.entries = self.size + len(leaves)
            if self.sound:
                self._other_files(extras, leaves)
        except _EnoughError:
            report.signed = report.entries = self.size
            report.notes.append("there may be more problems: the search ended here")
        return report

    def problem(self, path: Path | str, what: str) -> None:
        line = f"{os.path.relpath(path, self.root)}: {what}"
        if line not in self.report.problems:
            if len(self.report.problems) >= _MAX_PROBLEMS:
                raise _EnoughError
            self.report.problems.append(line)

    def read(self, path: Path, limit: int = _MAX_FILE) -> bytes | None:
        """A file beside the tiles; a problem where it cannot be read."""
        try:
            return _read(path, limit)
        except VerificationError as error:
            self.problem(path, str(error))
            return None

    # --- the signed tree head, and others -------------------------------------------------------------

    def _tree_head(self) -> TreeHead | None:
        path = self.root / "checkpoint"
        note = self.read(path, _MAX_NOTE + 1)
        if note is None:
            # A log that was ever signed begins with a signed head of the empty tree.
            if (self.root / "tile").exists():
                self.problem(path, "missing")
            self.report.notes.append("no tree head: nothing is signed")
            return None
        try:
            head = parse_tree_head(verify_note(note, self.key))
            self.report.cosignatures += verify_cosignatures(note, self.witnesses, self.now)
        except VerificationError as error:
            self.problem(path, str(error))
            self.sound = False
            return None
        if head.origin != self.key.name:
            self.problem(path, "its origin is not the name of the key")
        self.report.origin, self.report.root = head.origin, base64.b64encode(head.root).decode()
        self.report.tree_head = note.decode()
        self.size = head.size
        return head

    def _kept_heads(self) -> None:
        """Heads that this log has to have grown from: the one given, and those that witnesses cosigned."""
        if self.since is not None:
            try:
                older = parse_tree_head(verify_note(self.since, self.key))
                self._heads.append(Past(older.size, older.root, "the tree head"))
            except VerificationError as error:
                self.report.problems.append(f"the older tree head: {error}")
        folder = self.root / "cosigned"
        names: list[str] = []
        if folder.is_symlink():
            self.problem(folder, "is a link")
        else:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as listed:
                names = sorted(entry.name for entry in listed if not entry.name.endswith(".tmp"))
        if len(names) > _MAX_LOGS:
            self.problem(folder, "holds too many files")
            names = []
        for name in names:
            path = folder / name
            note = self.read(path, _MAX_NOTE + 1)
            if note is None:
                continue
            try:
                head = parse_tree_head(verify_note(note, self.key))
                self.report.cosignatures += verify_cosignatures(note, self.witnesses, self.now)
            except VerificationError as error:
                self.problem(path, str(error))
                continue
            self._heads.append(Past(head.size, head.root, "the cosigned tree head"))
        known = {one.witness for one in self.report.cosignatures}
        for key in self.witnesses:
            if key.name not in known:
                self.problem(folder, f"no cosignature of {key.name}")
        if names and not self.witnesses:
            self.report.notes.append("cosignatures are here; to check them, give the witnesses' keys")
        self._heads.sort(key=lambda past: past.size)

    def _past(self) -> Iterator[Past]:
        if self._anchored is None:
            return iter(self._heads)
        return heapq.merge(self._heads, self._anchored(), key=lambda past: past.size)

    # --- the tree -----------------------------------------------------------------------------------------

    def _tile(self, level: int, index: int, width: int) -> bytes | None:
        """The first `width` hashes of a tile; None, and a problem, where they are missing or malformed."""
        path = _tile_path(self.root, level, index, width)
        try:
            path, wide, data = _widest(self.root, level, index, width)
        except VerificationError as error:
            self.problem(path, str(error))
            return None
        if data is None:
            self.problem(path, "missing")
        elif len(data) != 32 * wide:
            self.problem(path, "has not the size that its name says")
            return None
        return data if data is None or wide == width else data[: 32 * width]

    def _bundle(self, index: int, width: int) -> bytes | None:
        """The leaf hashes of the first `width` entries of a bundle, or None and a problem."""
        path = _tile_path(self.root, "entries", index, width)
        try:
            path, wide, data = _widest(self.root, "entries", index, width)
        except VerificationError as error:
            self.problem(path, str(error))
            return None
        if data is None:
            self.problem(path, "missing")
            return None
        entries = _split(data)
        if entries is None or len(entries) != wide:
            self.problem(path, "malformed: its entries do not fill it")
            return None
        del entries[width:]
        # In canonical form an entry ends with its time. All others are looked at one by one.
        ends = [entry[entry.rfind(b'"time":"') + 8 :] for entry in entries]
        usual = all([end.find(b'"') == len(end) - 2 for end in ends])  # noqa: C419  # a list is faster
        if self.strict or not usual or min(ends) < b"1970" or max(ends) > self._latest:
            for number, entry in enumerate(entries):
                self._check_entry(path, index * _WIDTH + number, entry)
        return b"".join([_sha(b"\x00" + entry).digest() for entry in entries])

    def _check_entry(self, path: Path | str, index: int, entry: bytes) -> None:
        try:
            document = parse_json(entry)
        except VerificationError as error:
            self.problem(path, f"entry {index} {error}")
            return
        moment = document.get("time") if isinstance(document, dict) else None
        if isinstance(moment, str) and moment.encode(errors="replace") > self._latest:
            self.problem(path, f"entry {index} is dated in the future")

    def _signed(self, head: TreeHead) -> None:
        """Compute the tree from its entries, compare every tile, and find which file is wrong."""
        rows = [bytearray()]
        stored = [b""]
        past = self._past()
        wanted = next(past, None)
        for index, width in _tiles(self.size):
            leaves = self._bundle(index, width)
            tile = self._tile(0, index, width)
            computed = leaves or tile or bytes(32 * width)
            if leaves is not None and tile is not None and leaves != tile:
                self._differs(0, index)
            stop = index * _WIDTH + width
            if wanted is not None and wanted.size <= stop:
                above = [bytes(row) for row in rows[1:]]
                while wanted is not None and wanted.size <= stop:
                    self._compare_past(wanted, index, computed, above)
                    wanted = next(past, None)
            if width == _WIDTH:
                self._push(rows, 1, _tree_root(computed), index)
            else:
                rows[0] = bytearray(computed)
                stored[0] = tile or computed
        while wanted is not None and wanted.size == 0 == self.size:
            self._compare_past(wanted, 0, b"", [])
            wanted = next(past, None)
        self.edges = [bytes(row) for row in rows]
        for level in range(1, len(rows)):
            count = self.size >> (8 * level)
            tile = self._tile(level, count // _WIDTH, count % _WIDTH) if count % _WIDTH else b""
            stored.append(self.edges[level] if tile is None else tile)
            if stored[level] != self.edges[level]:
                self._differs(level, count // _WIDTH)
        if _edge_root(self.edges) == head.root:
            for level, index in self.differing:
                self.problem(self._name(level, index), "does not match the tree")
            for line in self.missed:
                self.problem(self.root / "checkpoint", line)
        else:
            self._blame(head, stored)
        checkpoint = self.root / "checkpoint"
        if wanted is not None:
            for wanted in past:  # noqa: B007  # the largest says it best
                pass
            self.problem(checkpoint, f"rolled back: {wanted.what} of {wanted.size} entries was signed before")

    def _push(self, rows: list[bytearray], level: int, value: bytes, below: int) -> None:
        """Add the hash of tile `below` of the level below, and compare the tile that it may complete."""
        if level == len(rows):
            rows.append(bytearray())
        row = rows[level]
        row += value
        if len(row) == _TILE:
            index = below // _WIDTH
            tile = self._tile(level, index, _WIDTH)
            if tile is not None and tile != row:
                self._differs(level, index)
            self._push(rows, level + 1, _tree_root(bytes(row)), index)
            row.clear()

    def _differs(self, level: int, index: int) -> None:
        if len(self.differing) >= _MAX_PROBLEMS:
            self.problem(self._name(level, index), "does not match the tree")
            raise _EnoughError
        self.differing.append((level, index))

    def _compare_past(self, past: Past, index: int, leaves: bytes, above: Sequence[bytes]) -> None:
        """Compare a head of before, whose last entry is in bundle `index`, with the tree of then."""
        count = 32 * max(past.size - index * _WIDTH, 0)
        if _edge_root([leaves[:count], *above]) != past.root:
            self.missed.append(f"forked: it does not continue {past.what} of {past.size} entries")
            if len(self.missed) > _MAX_PROBLEMS:
                self.report.problems += [f"checkpoint: {line}" for line in self.missed]
                raise _EnoughError

    def _name(self, level: int | str, index: int) -> str:
        """The path of the widest file of a tile or bundle of this tree that is there."""
        number = 0 if level == "entries" else int(level)
        width = min((self.size >> (8 * number)) - index * _WIDTH, _WIDTH)
        try:
            return _widest(self.root, level, index, width)[0]
        except VerificationError:
            return _tile_path(self.root, level, index, width)

    def _blame(self, head: TreeHead, stored: list[bytes]) -> None:
        """The entries do not give the signed root: follow the tiles from the root down to where they part."""
        trusted = None
        for choice in range(1 << len(stored)):
            mix = [stored[at] if choice >> at & 1 else edge for at, edge in enumerate(self.edges)]
            if _edge_root(mix) == head.root:
                trusted = mix
                break
        if trusted is None:
            self.sound = False
            if not self.report.problems:
                self.problem(self.root / "checkpoint", "its root is not that of the entries and tiles here")
            for level, index in self.differing:
                if level == 0:
                    self.problem(self._name("entries", index), "does not match its tile")
            return
        computed, self.edges = self.edges, trusted
        for level, row in enumerate(trusted):
            index = (self.size >> (8 * level)) // _WIDTH
            if level == 0 and row != computed[0]:
                self.problem(self._name("entries", index), "does not match the tree")
            elif row != stored[level]:
                self.problem(self._name(level, index), "does not match the tree")
            if level:
                self._children(level, index, row, computed[level])

    def _children(self, level: int, index: int, trusted: bytes, computed: bytes) -> None:
        """Go on below a tile whose hashes are known, where the entries give others."""
        for place in range(len(trusted) // 32):
            says = trusted[32 * place : 32 * place + 32]
            child = index * _WIDTH + place
            if computed[32 * place : 32 * place + 32] != says:
                self._descend(level - 1, child, says)
                continue
            for below, number in self.differing:  # the entries are right, so these tiles are not
                if below < level and number >> (8 * (level - 1 - below)) == child:
                    self.problem(self._name(below, number), "does not match the tree")

    def _descend(self, level: int, index: int, says: bytes) -> None:
        """Find what is wrong in and below a full tile whose root must be `says`."""
        stored, computed = self._quiet(level, index), self._computed(level, index)
        trusted = None
        if stored is not None and _tree_root(stored) == says:
            trusted = stored
        else:
            if stored is not None:
                self.problem(self._name(level, index), "does not match the tree")
            choices = [computed]
            if level:
                below = range(index * _WIDTH, (index + 1) * _WIDTH)
                tiles = [self._quiet(level - 1, number) or bytes(_TILE) for number in below]
                choices.append(b"".join([_tree_root(tile) for tile in tiles]))
            trusted = next((choice for choice in choices if _tree_root(choice) == says), None)
        if level:
            if trusted is not None:
                self._children(level, index, trusted, computed)
        elif computed != trusted:
            self.problem(self._name("entries", index), "does not match the tree")

    def _computed(self, level: int, index: int) -> bytes:
        """The hashes of a full tile as its entries give them."""
        if level:
            below = range(index * _WIDTH, (index + 1) * _WIDTH)
            return b"".join([_tree_root(self._computed(level - 1, number)) for number in below])
        with contextlib.suppress(VerificationError):
            entries = _split(_read(_tile_path(self.root, "entries", index)) or b"") or []
            if len(entries) == _WIDTH:
                return b"".join([_sha(b"\x00" + entry).digest() for entry in entries])
        return self._quiet(0, index) or bytes(_TILE)

    def _quiet(self, level: int, index: int) -> bytes | None:
        """A full tile, or None where it is missing or malformed, which was said before."""
        with contextlib.suppress(VerificationError):
            data = _read(_tile_path(self.root, level, index))
            return data if data is not None and len(data) == _TILE else None
        return None

    # --- the journal: what is durable, and signed only later ------------------------------------------

    def _journal(self) -> list[bytes]:
        """Leaf hashes of the entries beyond the signed tree head; those below it are compared with theirs."""
        folder = self.root / "journal"
        leaves: list[bytes] = []
        end = -1
        try:
            names = _journal_names(self.root)
        except VerificationError as error:
            self.problem(folder, str(error))
            return leaves
        for name in names:
            path = folder / name
            for number, (first, count, entries) in enumerate(self._frames(path)):
                if first != end if number else first > max(end, self.size):
                    self.problem(path, f"entries are missing before entry {first}")
                    return leaves
                if first < end:
                    del leaves[max(first - self.size, 0) :]  # taken up again after a failure
                for index, entry in enumerate(entries, first):
                    if index < self.size:
                        self._compare(path, index, entry)
                    else:
                        self._check_entry(folder, index, entry)
                        leaves.append(_sha(b"\x00" + entry).digest())
                end = first + count
                if len(leaves) > _MAX_UNSIGNED:
                    self.problem(folder, "holds too many unsigned entries")
                    raise _EnoughError
        emergency = folder / "emergency"
        for first, count, entries in self._frames(emergency):
            for index, entry in enumerate(entries, first):
                position = index - self.size
                leaf = _sha(b"\x00" + entry).digest()
                if position > len(leaves):
                    self.problem(emergency, f"entries are missing before entry {index}")
                elif position < 0:
                    self._compare(emergency, index, entry)
                elif leaves[position : position + 1] != [leaf]:
                    self._check_entry(emergency, index, entry)
                    leaves[position:] = [leaf]  # what else claims its place was never durable
            end = max(end, first + count)
        if 0 <= end < self.size:
            self.problem(folder / names[-1] if names else emergency, "ends before the signed tree head")
        return leaves

    def _compare(self, path: Path, index: int, entry: bytes) -> None:
        tile, place = divmod(index, _WIDTH)
        if self.last_tile[0] != tile:
            data = None
            with contextlib.suppress(VerificationError):
                data = _widest(self.root, 0, tile, min(self.size - tile * _WIDTH, _WIDTH))[2]
            self.last_tile = (tile, data or b"")
        says = self.last_tile[1][32 * place : 32 * place + 32]
        if says and says != _sha(b"\x00" + entry).digest():
            self.problem(path, f"entry {index} is not the one in the tree")

    def _frames(self, path: Path) -> Iterator[tuple[int, int, Iterator[bytes]]]:
        """The sound frames of a journal file: (first index, count, entries). A torn end is noted, damage reported."""
        try:
            descriptor = _open(path)
        except VerificationError as error:
            self.problem(path, str(error))
            return
        if descriptor is None:
            return
        try:
            end = os.fstat(descriptor).st_size
            if end > _MAX_JOURNAL:
                self.problem(path, "is larger than a journal can be")
                return
            seed = _sha(b"cloister ledger journal\n" + self.key.name.encode()).digest()
            at, digest = yield from _sound_frames(descriptor, 0, end, seed)
            while any(data.strip(b"\x00") for _, data in _pieces(descriptor, at, end)):
                torn, before = _is_torn(descriptor, at, end), at
                # A log in use: what was looked at may have been half written then, and be whole by now.
                at, digest = yield from _sound_frames(descriptor, at, end, digest)
                if at > before:
                    continue
                if torn:
                    name = path.relative_to(self.root)
                    self.report.notes.append(f"{name}: a torn write at byte {at}, never acknowledged")
                else:
                    self.problem(path, f"damaged at byte {at}")
                break
        except OSError as error:
            self.problem(path, f"cannot be read: {error.strerror}")
        finally:
            os.close(descriptor)

    # --- everything else below tile/ ----------------------------------------------------------------------

    def _extras(self) -> Iterator[tuple[str, str, int, int]]:
        """(path, level, index, width) of each file that the tree of the signed head does not need in full."""
        count = 0
        for path in self._walk(f"{self.root}/tile", 0):
            parsed = re.fullmatch(
                r"(entries|[0-9]{1,2})/((?:x[0-9]{3}/){0,5}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?",
                os.path.relpath(path, self.root / "tile"),
                re.ASCII,
            )
            if parsed is None:
                self.problem(path, "is not a file of this log")
                continue
            level, index = parsed[1], int(re.sub("[x/]", "", parsed[2]))
            width = int(parsed[3] or _WIDTH)
            number = 0 if level == "entries" else int(level)
            if path != _tile_path(self.root, level, index, width) or number > 7:
                self.problem(path, "is not a file of this log")
            elif parsed[3] is not None or index >= (self.size >> (8 * number)) // _WIDTH:
                count += 1
                if count > _MAX_EXTRAS:
                    self.problem(self.root / "tile", "holds too many files that the tree does not need")
                    raise _EnoughError
                yield path, level, index, width

    def _walk(self, folder: str, depth: int) -> Iterator[str]:
        """The plain files below a folder, in order."""
        try:
            if depth == 0 and Path(folder).is_symlink():
                raise VerificationError("is a link")
            with os.scandir(folder) as listed:
                found = [entry for entry, _ in zip(listed, range(_MAX_NAMES + 1), strict=False)]
        except (FileNotFoundError, NotADirectoryError):
            return  # none, or a log in use has done away with it
        except OSError as error:
            self.problem(folder, f"cannot be read: {error.strerror}")
            return
        except VerificationError as error:
            self.problem(folder, str(error))
            return
        if len(found) > _MAX_NAMES:
            self.problem(folder, "holds too many files")
            return
        for entry in sorted(found, key=lambda entry: entry.name):
            if entry.name.endswith(".tmp"):
                continue
            if entry.is_dir(follow_symlinks=False) and depth < 8:
                yield from self._walk(entry.path, depth + 1)
            elif entry.is_file(follow_symlinks=False):
                yield entry.path
            else:
                self.problem(entry.path, "is neither a file nor a folder")

    def _other_files(self, extras: Sequence[tuple[str, str, int, int]], journal: Sequence[bytes]) -> None:
        """Compare what was not needed so far: partial tiles of smaller trees, tiles ahead of the head."""
        rows = [self.edges[0] + b"".join(journal), *self.edges[1:]]
        level = 0
        while len(rows[level]) >= _TILE:
            if level + 1 == len(rows):
                rows.append(b"")
            full = range(0, len(rows[level]) - _TILE + 1, _TILE)
            rows[level + 1] += b"".join([_tree_root(rows[level][at : at + _TILE]) for at in full])
            level += 1
        for path, kind, index, width in extras:
            number = 0 if kind == "entries" else int(kind)
            try:
                data = _read(path)
            except VerificationError as error:
                self.problem(path, str(error))
                continue
            if data is None:
                continue
            ahead = index - (self.size >> (8 * number)) // _WIDTH
            if ahead < 0:
                full_data = b""
                with contextlib.suppress(VerificationError):
                    full_data = _read(_tile_path(self.root, kind, index)) or b""
                held = len(_split(data) or ()) if kind == "entries" else len(data) / 32
                if not full_data.startswith(data) or held != width:
                    self.problem(path, "does not match the full tile")
                continue
            if kind == "entries":
                data = b"".join([_sha(b"\x00" + entry).digest() for entry in _split(data) or ()])
            row = rows[number] if number < len(rows) else b""
            if len(data) != 32 * width or data != row[_TILE * ahead : _TILE * ahead + 32 * width]:
                self.problem(path, "does not match the tree")


def _sound_frames(
    descriptor: int, at: int, end: int, digest: bytes
) -> Generator[tuple[int, int, Iterator[bytes]], None, tuple[int, bytes]]:
    """(first index, count, entries) of one frame after the other; returns where the last ends, and its digest."""
    while length := _frame_length(descriptor, at):
        stop = at + length
        if stop > end:
            break
        hashed = _sha(digest)
        for _, data in _pieces(descriptor, at, stop - 33):
            hashed.update(data)
        header = _read_at(descriptor, at, 24)
        count = int.from_bytes(header[16:20], "big")
        if _read_at(descriptor, stop - 33, 33) != hashed.digest() + b"\xa5":
            break
        if not count or _count_records(descriptor, at + 24, stop - 33) != count:
            break
        digest = hashed.digest()
        yield int.from_bytes(header[8:16], "big"), count, _records(descriptor, at + 24, stop - 33)
        at = stop
    return at, digest


def _count_records(descriptor: int, at: int, stop: int) -> int:
    """How many entries, each behind its length, lie between two offsets; -1 where the lengths do not fit."""
    count = 0
    while at < stop:
        at += 2 + int.from_bytes(os.pread(descriptor, 2, at), "big")
        count += 1
    return count if at == stop else -1


def _records(descriptor: int, at: int, stop: int) -> Iterator[bytes]:
    while at < stop:
        length = int.from_bytes(os.pread(descriptor, 2, at), "big")
        yield os.pread(descriptor, length, at + 2)
        at += 2 + length


def _frame_length(descriptor: int, at: int) -> int:
    """Length of the frame there, else 0. Its header: magic, body length, first index, count, CRC-32."""
    header = _read_at(descriptor, at, 24)
    if header[:4] != b"CLJ1" or zlib.crc32(header[:20]) != int.from_bytes(header[20:], "big"):
        return 0
    return 24 + int.from_bytes(header[4:8], "big") + 33


def _is_torn(descriptor: int, at: int, end: int) -> bool:
    """Whether the last write reached the disk in part: a sector is still zeros, or its end is missing."""
    written, before = at, b""
    for start, data in _pieces(descriptor, at + 1, end):
        window = before + data
        found = window.find(b"CLJ1")
        while found >= 0:
            if _frame_length(descriptor, start - len(before) + found):
                return False  # a frame behind it: this one was durable once
            found = window.find(b"CLJ1", found + 1)
        before = window[-3:]
        if kept := len(data.rstrip(b"\x00")):
            written = start + kept
    length = _frame_length(descriptor, at) or 24
    if written < at + length or at + length > end:
        return True
    header = _read_at(descriptor, at, 512 - at % 512)[:length]
    if not header.strip(b"\x00"):
        return True
    for _, data in _pieces(descriptor, at + len(header), at + length):
        for cut in range(0, len(data), 512):
            if not data[cut : cut + 512].strip(b"\x00"):
                return True
    return False


# --- several logs: one anchors the heads of others --------------------------------------------------------


def read_anchors(root: Path, size: int) -> Iterator[Anchor]:
    """The tree heads of other logs that the first `size` entries of this one state, in its order.

    Raises:
        VerificationError: an entry that should be one is malformed.
    """
    for index, width in _tiles(size):
        data = _widest(root, "entries", index, width)[2]
        if data is None or _ANCHOR not in data:
            continue
        for number, entry in enumerate((_split(data) or [])[:width], index * _WIDTH):
            if _ANCHOR in entry:
                document = parse_json(entry)
                if isinstance(document, dict) and document.get("action") == "ledger.anchor":
                    yield _anchor(number, document)


def _anchor(index: int, document: dict[str, Any]) -> Anchor:
    try:
        details, digests = document["details"], document["digests"]
        found = Anchor(
            index, details["origin"], details["size"], bytes.fromhex(digests["root"]), details["vkey"]
        )
        parse_vkey(found.vkey)
        if type(found.origin) is not str or type(found.size) is not int or found.size < 0:
            raise ValueError
    except (KeyError, TypeError, ValueError, AttributeError, VerificationError):
        raise VerificationError(f"entry {index} is a malformed anchor") from None
    return found


def find_logs(folder: Path) -> list[Path]:
    """The log in this folder, or the logs in the folders just below it.

    Raises:
        VerificationError: there is none.
    """
    if _is_log(folder):
        return [folder]
    found = []
    with os.scandir(folder) as listed:
        for entry in listed:
            if entry.is_dir(follow_symlinks=False) and _is_log(Path(entry.path)):
                found.append(Path(entry.path))
                if len(found) > _MAX_LOGS:
                    raise VerificationError(f"{folder} holds too many logs")
    if not found:
        raise VerificationError(f"there is no ledger in {folder}")
    return sorted(found)


def _is_log(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("checkpoint", "tile", "journal"))


@dataclass
class _Anchored:
    """Which log anchors another, with how many entries that log is signed, and with which key, how often."""

    log: Path
    size: int
    vkey: str
    count: int = 0


def verify_folder(
    folder: Path | str,
    keys: Sequence[VerifierKey],
    *,
    since: Sequence[bytes] = (),
    witnesses: Sequence[VerifierKey] = (),
    strict: bool = False,
    now: float | None = None,
) -> dict[Path, Report]:
    """Check a log, or several in one folder, of which one may anchor the heads of others.

    A log without a key of its own among `keys` is checked with the key that an anchor states. An anchored
    log that is not in the folder, or does not continue what was anchored, is a problem. Each of `since`
    belongs to the log that it names.

    Raises:
        VerificationError: there is nothing to check, or a head in `since` is of no log here.
    """
    folder = Path(folder)
    logs = {path: _claimed_origin(path) for path in find_logs(folder)}
    by_name = {key.name: key for key in keys}
    heads = {_origin_of(note): note for note in since}
    if strangers := heads.keys() - set(logs.values()):
        raise VerificationError(f"the older tree head is of {min(strangers)!a}, which is not here")
    reports: dict[Path, Report] = {}
    anchoring: dict[str, _Anchored] = {}
    waiting = sorted(logs, key=lambda path: logs[path] not in by_name)
    for path in waiting:
        origin = logs[path]
        stated = anchoring.get(origin)
        vkey = str(by_name[origin]) if origin in by_name else stated.vkey if stated else None
        if vkey is None and len(keys) == 1 and len(logs) == 1:
            vkey = str(keys[0])  # and the verdict is that it is another key's log
        if vkey is None:
            reports[path] = Report(origin=origin, problems=[f"{_NO_KEY} {origin!a}"])
            continue
        past = _past_of(stated, origin) if stated else None
        report = verify_log(
            path, vkey, since=heads.get(origin), witnesses=witnesses, past=past, strict=strict, now=now
        )
        reports[path] = report
        report.anchors = stated.count if stated else 0
        _take_anchors(path, report, anchoring, by_name)
    present = set(logs.values())
    for origin, stated in anchoring.items():
        if origin not in present:
            where = reports[stated.log]
            if stated.log == folder:
                where.notes.append(f"it anchors {origin!a}: to check that log too, name the folder above")
            else:
                where.problems.append(f"{origin!a} is anchored here, and that log is missing")
    return reports


def _claimed_origin(path: Path) -> str:
    try:
        return _origin_of(_read(path / "checkpoint", _MAX_NOTE) or b"")
    except VerificationError:
        return ""


def _take_anchors(
    path: Path, report: Report, anchoring: dict[str, _Anchored], keys: dict[str, VerifierKey]
) -> None:
    """Note which logs this one anchors; its anchors must not contradict each other, nor the keys given."""
    sizes: dict[str, int] = {}
    try:
        for anchor in read_anchors(path, report.signed):
            origin = anchor.origin
            known = anchoring.setdefault(origin, _Anchored(path, report.signed, anchor.vkey))
            stated = str(keys[origin]) if origin in keys else known.vkey
            if len(anchoring) > _MAX_LOGS:
                raise VerificationError("too many logs are anchored")
            if anchor.vkey != stated:
                raise VerificationError(f"entry {anchor.index} anchors {origin!a} with another key")
            if anchor.size < sizes.get(origin, 0):
                raise VerificationError(f"entry {anchor.index} anchors {origin!a} rolled back")
            sizes[origin] = anchor.size
            known.count += 1
    except VerificationError as error:
        report.problems.append(str(error))


def _past_of(stated: _Anchored, origin: str) -> Callable[[], Iterator[Past]]:
    """The heads that a log anchors of another, smallest first; what is out of order was said before."""

    def past() -> Iterator[Past]:
        largest = 0
        with contextlib.suppress(VerificationError):
            for anchor in read_anchors(stated.log, stated.size):
                if anchor.origin == origin and anchor.size >= largest:
                    largest = anchor.size
                    what = f"the tree head in entry {anchor.index} of {stated.log.name}"
                    yield Past(anchor.size, anchor.root, what)

    return past


# --- a witness -----------------------------------------------------------------------------------------


@dataclass
class Witnessed:
    """What the witness did about one log: `time` (seconds since 1970) is that of its cosignature, or None."""

    origin: str
    size: int
    before: int
    time: int | None
    problems: list[str]


class Witness:
    """Keeps, of each log, the last tree head that it saw, and cosigns one that continues it.

    Its folder (0700) holds its key, and of each log the key and the last head. One witness at a time uses it.

    Raises:
        VerificationError: what lies in its folder cannot be used.
        OSError: the folder cannot be made.
    """

    def __init__(self, state: Path, name: str | None = None) -> None:
        self.state = state
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            self._private = self._load(name)
        except BaseException:
            os.close(self._lock)
            raise

    def close(self) -> None:
        os.close(self._lock)

    def __enter__(self) -> Witness:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _load(self, name: str | None) -> Ed25519PrivateKey:
        """The witness's own key, made on first use."""
        path, public = self.state / "witness.key", self.state / "witness.vkey"
        seed = _read(path, 64)
        if seed is None:
            name = name or f"witness/{socket.gethostname()}"
            if not _is_name(name) or re.search(r"[\x00-\x1f]", name):
                raise VerificationError("a witness's name has no spaces, no '+' and no control characters")
            private = Ed25519PrivateKey.generate()
            self.key = _key(name, _COSIGNATURE, private.public_key().public_bytes_raw())
            _write(public, f"{self.key}\n".encode())
            _write(path, private.private_bytes_raw())
            return private
        if len(seed) != 32 or path.stat().st_mode & 0o077:
            raise VerificationError(f"{path} is not a key of 32 bytes that only its owner may read")
        private = Ed25519PrivateKey.from_private_bytes(seed)
        self.key = parse_witness_vkey((_read(public, 4096) or b"").decode(errors="replace"))
        if self.key.public != private.public_key().public_bytes_raw():
            raise VerificationError(f"{public} is not the public half of {path}")
        return private

    def visit(
        self, folder: Path, keys: Sequence[VerifierKey] = (), now: float | None = None
    ) -> list[Witnessed]:
        """Check every log in a folder against its kept head; cosign, keep, and leave the cosignature there.

        Raises:
            VerificationError: there is no log.
            OSError: the state, or the cosignature, cannot be written.
        """
        moment = time.time() if now is None else now
        origins = {_claimed_origin(path) for path in find_logs(folder)}
        known = {key.name: key for key in keys}
        since = []
        for origin in origins:
            vkey = _read(self._file(origin, "vkey"), 4096)
            if vkey is not None:
                stored = parse_vkey(vkey.decode(errors="replace"))
                if known.setdefault(origin, stored) != stored:
                    raise VerificationError(f"{origin!a} was witnessed with another key before")
            if (note := _read(self._file(origin, "head"), _MAX_NOTE)) is not None:
                since.append(note)
        reports = verify_folder(folder, list(known.values()), since=since, now=moment)
        return [self._judge(path, report, int(moment)) for path, report in reports.items()]

    def _judge(self, path: Path, report: Report, moment: int) -> Witnessed:
        kept = _read(self._file(report.origin, "head"), _MAX_NOTE)
        before = parse_tree_head(_signatures(kept)[0]).size if kept else 0
        result = Witnessed(report.origin, report.signed, before, None, report.problems)
        if not report.tree_head and report.ok:
            result.problems = ["nothing in it is signed"]
        if result.problems:
            if report.tree_head:  # signed by the log's key: with the kept head it may prove what happened
                (self.state / "evidence").mkdir(mode=0o700, exist_ok=True)
                name = f"{_sha(report.origin.encode()).hexdigest()}-{moment}"
                _write(self.state / "evidence" / name, report.tree_head.encode())
            return result
        log = parse_vkey(report.vkey)
        body, signatures = _signatures(report.tree_head.encode())
        own = next(raw for name, key_id, raw in signatures if (name, key_id) == (log.name, log.id))
        cosignature = moment.to_bytes(8, "big") + self._private.sign(_cosigned(body, moment))
        note = f"{body}\n{_line(log, own)}{_line(self.key, cosignature)}".encode()
        # Kept before it is given away: no two heads that contradict each other are ever cosigned.
        if _read(self._file(report.origin, "vkey"), 4096) is None:
            _write(self._file(report.origin, "vkey"), f"{log}\n".encode())
        _write(self._file(report.origin, "head"), note)
        cosigned = path / "cosigned"
        if cosigned.is_symlink():
            raise VerificationError(f"{cosigned} is a link")
        cosigned.mkdir(exist_ok=True)
        _write(cosigned / self.key.id.hex(), note)
        result.time = moment
        return result

    def _file(self, origin: str, kind: str) -> Path:
        return self.state / f"{_sha(origin.encode()).hexdigest()}.{kind}"


def _line(key: VerifierKey, signature: bytes) -> str:
    return f"\N{EM DASH} {key.name} {base64.b64encode(key.id + signature).decode()}\n"


def _write(path: Path, data: bytes) -> None:
    """Write a whole file durably, readable for its owner only; nothing half-written gets its name."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def state_folder() -> Path:
    """Where a witness keeps its state unless told otherwise."""
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "cloister-witness"


# --- the command -------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0: verified; 1: problems; 2: it could not be checked."""
    options = _parser().parse_args(arguments)
    try:
        return _verify(options) if options.command == "verify" else _witness(options)
    except (VerificationError, OSError) as error:
        print(f"not verified: {_shown(str(error))}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Verify ledgers, copies of them and proofs, offline.")
    commands = parser.add_subparsers(dest="command", required=True)
    verify = commands.add_parser("verify", help="check a ledger, several in one folder, or a proof")
    verify.add_argument("path", type=Path, help="a ledger, a folder of ledgers, or a .tlog-proof")
    key = "a log's verifier key, or a file that holds it; may be repeated"
    verify.add_argument("--key", action="append", required=True, metavar="VKEY", help=key)
    verify.add_argument(
        "--since", action="append", default=[], type=Path, metavar="FILE", help="an older signed tree head"
    )
    verify.add_argument(
        "--witness", action="append", default=[], metavar="VKEY", help="a witness that must have cosigned"
    )
    verify.add_argument("--strict", action="store_true", help="read each entry too: three times as long")
    verify.add_argument(
        "--entry", type=Path, metavar="FILE", help="the entry, where a proof does not hold it"
    )
    witness = commands.add_parser("witness", help="check what was carried here, and cosign it")
    witness.add_argument("path", type=Path, help="the folder that was carried here")
    witness.add_argument(
        "--key", action="append", default=[], metavar="VKEY", help=f"{key}; on the first visit"
    )
    witness.add_argument("--state", type=Path, help=f"where it keeps its key and heads ({state_folder()})")
    witness.add_argument("--name", help="the witness's name, when its key is made (witness/HOST)")
    for command in (verify, witness):
        command.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser


def read_keys(given: Iterable[str], parse: Callable[[str], VerifierKey] = parse_vkey) -> list[VerifierKey]:
    """Verifier keys, each written out or the name of a file that holds some, one a line.

    Raises:
        VerificationError: one is malformed. OSError: a file cannot be read.
    """
    found = []
    for text in given:
        lines = [text] if text.count("+") >= 2 and "\n" not in text else _text(Path(text)).splitlines()
        found += [parse(line) for line in lines if line.strip()]
    return found


def _text(path: Path) -> str:
    data = _read(path, _MAX_NOTE)
    if data is None:
        raise VerificationError(f"{path} does not exist")
    return data.decode(errors="replace")


def _verify(options: argparse.Namespace) -> int:
    keys = read_keys(options.key)
    witnesses = read_keys(options.witness, parse_witness_vkey)
    if not options.path.is_dir():
        if options.since:
            raise VerificationError("a proof says nothing about an older tree head: verify the ledger itself")
        data = _read(options.path, _MAX_NOTE + 1)
        entry = None if options.entry is None else _read(options.entry)
        if data is None:
            raise VerificationError(f"{options.path} does not exist")
        return _print_proof(options, data, keys, witnesses, entry)
    since = [_text(path).encode() for path in options.since]
    reports = verify_folder(options.path, keys, since=since, witnesses=witnesses, strict=options.strict)
    ok = all(report.ok for report in reports.values())
    if options.json:
        logs = [{"folder": str(path), **asdict(report), "ok": report.ok} for path, report in reports.items()]
        print(json.dumps({"ok": ok, "ledgers": logs}))
        return 0 if ok else 1
    for path, report in reports.items():
        print(
            f"{_shown(path)}: {_shown(report.origin)}: {report.entries} entries, {report.signed} signed, "
            f"{report.unsigned} unsigned"
        )
        if report.root:
            print(f"root {report.root}")
        if report.anchors:
            print(f"continues {report.anchors} anchored tree heads")
        _print_cosignatures(report.cosignatures)
        for line in report.notes:
            print(f"note: {_shown(line)}")
        for line in report.problems:
            print(f"PROBLEM: {_shown(line)}")
    count = sum(len(report.problems) for report in reports.values())
    print("verified" if ok else f"NOT VERIFIED: {count} problems")
    return 0 if ok else 1


def _print_proof(
    options: argparse.Namespace,
    data: bytes,
    keys: Sequence[VerifierKey],
    witnesses: Sequence[VerifierKey],
    entry: bytes | None,
) -> int:
    try:
        report = verify_proof(data, keys, witnesses=witnesses, entry=entry)
    except VerificationError as error:
        if options.json:
            print(json.dumps({"ok": False, "problems": [str(error)]}))
        else:
            print(f"NOT VERIFIED: {_shown(str(error))}")
        return 1
    if options.json:
        print(json.dumps({"ok": True, **asdict(report)}))
        return 0
    print(f"{_shown(report.origin)}: entry {report.index} of {report.size}")
    print(report.entry)
    print(f"root {report.root}")
    _print_cosignatures(report.cosignatures)
    print("verified")
    return 0


def _print_cosignatures(cosignatures: Iterable[Cosignature]) -> None:
    for one in cosignatures:
        print(f"cosigned by {_shown(one.witness)} at {_moment(one.time)} with {one.size} entries")


def _witness(options: argparse.Namespace) -> int:
    with Witness(options.state or state_folder(), options.name) as witness:
        results = witness.visit(options.path, read_keys(options.key))
        vkey = str(witness.key)
    ok = not any(result.problems for result in results)
    if options.json:
        print(json.dumps({"ok": ok, "witness": vkey, "ledgers": [asdict(result) for result in results]}))
        return 0 if ok else 1
    print(f"witness {vkey}")
    for result in results:
        if result.time is not None:
            grown = (
                f"continues the {result.before} seen before" if result.before else "seen for the first time"
            )
            print(
                f"{_shown(result.origin)}: {result.size} entries, {grown}; cosigned at {_moment(result.time)}"
            )
        for line in result.problems:
            print(f"PROBLEM: {_shown(result.origin)}: {_shown(line)}")
    strangers = [result for result in results if result.problems and result.problems[0].startswith(_NO_KEY)]
    if strangers:
        print("On the first visit give the key that `cloister audit key` prints on the appliance (--key).")
    if not ok and len(strangers) < sum(1 for result in results if result.problems):
        where = _shown(options.state or state_folder())
        print(f"NOT COSIGNED. The tree heads that show it are kept in {where}.")
    return 0 if ok else 1


def _moment(seconds: int) -> str:
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
    except (ValueError, OverflowError, OSError):
        return f"second {seconds}"


def _shown(text: object) -> str:
    """Text from outside, with what a terminal would obey written out."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in str(text)
    )


if __name__ == "__main__":
    sys.exit(main())
