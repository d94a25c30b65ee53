"""Vectors by others: Cobblestone-256 whole, in one stream and by random access; AES-KWP."""

from __future__ import annotations

import hashlib
import itertools
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloister.errors import CloisterError
from cloister.vault import CHUNK, HEADER, SealedReader
from cloister.vault.format import SALT, derive_file_keys
from cloister.vault.wrapping import UnwrapError, unwrap, wrap

COBBLESTONE = "c2sp_chunked_encryption_aes_256_gcm_test.json"
Vectors = Callable[[str], list[dict[str, Any]]]


def whole(reader: SealedReader) -> bytes:
    return reader.read(0, reader.size)


def one_stream(buffer_size: int, *, read_ahead: bool) -> Callable[[SealedReader], bytes]:
    return lambda reader: b"".join(map(bytes, reader.stream(buffer_size, read_ahead=read_ahead)))


def random_access(reader: SealedReader) -> bytes:
    """Pieces of odd lengths in a random order, each put in its place."""
    order = random.Random(7)
    cuts = sorted({0, reader.size, *(order.randrange(reader.size + 1) for _ in range(9))})
    spans = list(itertools.pairwise(cuts))
    order.shuffle(spans)
    content = bytearray(reader.size)
    for start, end in spans:
        assert reader.read_into(start, memoryview(content)[start:end]) == end - start
    return bytes(content)


def chunks_backwards(reader: SealedReader) -> bytes:
    starts = range(0, reader.size + 1, CHUNK)
    return b"".join(reversed([reader.read(at, CHUNK) for at in reversed(starts)]))


WAYS = {
    "whole": whole,
    "stream": one_stream(1 << 20, read_ahead=True),
    "stream by chunks": one_stream(1, read_ahead=False),
    "random access": random_access,
    "chunks backwards": chunks_backwards,
}


@pytest.mark.parametrize("way", WAYS)
def test_cobblestone_vectors(way: str, vectors: Vectors, tmp_path: Path) -> None:
    tests = vectors(COBBLESTONE)
    assert len(tests) == 35
    for test in tests:
        key, context = bytes.fromhex(test["key"]), bytes.fromhex(test["ctx"])
        path = tmp_path / str(test["tcId"])
        path.write_bytes(zlib.decompress(bytes.fromhex(test["ct"])))
        if test["result"] == "valid":
            with SealedReader(path, key, context) as reader:
                content = WAYS[way](reader)
                assert len(content) == reader.size == test["msgLength"], test["comment"]
                assert hashlib.sha512(content).hexdigest() == test["msgSha512"], test["comment"]
            continue
        for _ in range(2):  # and it keeps failing
            with pytest.raises(CloisterError), SealedReader(path, key, context) as reader:
                assert "HeaderFailure" not in test["flags"], test["comment"]
                assert "ValidFinalChunk" in test["flags"], test["comment"]
                WAYS[way](reader)


def test_cobblestone_key_derivation(vectors: Vectors) -> None:
    for test in vectors(COBBLESTONE):
        if "aeadKey" in test:
            sealed = zlib.decompress(bytes.fromhex(test["ct"]))
            keys = derive_file_keys(bytes.fromhex(test["key"]), sealed[:SALT], bytes.fromhex(test["ctx"]))
            assert keys.aead_key.hex() == test["aeadKey"]
            assert keys.base_nonce.hex() == test["baseNonce"]
            assert keys.commitment == sealed[SALT:HEADER]


def test_valid_beginnings_are_readable_where_the_end_is(vectors: Vectors, tmp_path: Path) -> None:
    seen = 0
    for test in vectors(COBBLESTONE):
        if {"PartialPlaintext", "ValidFinalChunk"} <= set(test["flags"]):
            path = tmp_path / str(test["tcId"])
            path.write_bytes(zlib.decompress(bytes.fromhex(test["ct"])))
            with SealedReader(path, bytes.fromhex(test["key"]), bytes.fromhex(test["ctx"])) as reader:
                content = reader.read(0, test["msgLength"])
            assert hashlib.sha512(content).hexdigest() == test["msgSha512"]
            seen += 1
    assert seen


def test_aes_kwp_vectors(vectors: Vectors) -> None:
    tests = vectors("aes_kwp_test.json")
    assert len(tests) == 254
    for test in tests:
        key, message, wrapped = (bytes.fromhex(test[field]) for field in ("key", "msg", "ct"))
        if test["result"] == "invalid":
            with pytest.raises(UnwrapError):
                unwrap(key, wrapped)
        else:
            assert wrap(key, message) == wrapped, test["comment"]
            assert unwrap(key, wrapped) == message, test["comment"]
