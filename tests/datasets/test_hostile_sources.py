"""Hostile and broken sources of every format: refused by place, field and rule, in bounded memory and time.

Each is made here, seeded, and read in a process of its own that says how far its memory grew, children included.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import signal
import struct
import subprocess
import sys
import textwrap
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from cloister.datasets.apart import At, Encoded, ReadApart, Said
from cloister.datasets.canonical import encoded
from cloister.datasets.problems import ProblemLog, Unreadable
from cloister.datasets.rows import Row

MIB = 1 << 20
LIMIT = 192 * MIB
"""What reading may take beyond the program itself; pyarrow's own libraries are 100 MiB of it."""
SECRET = "Zanzibar-4711"
GOOD = json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})
CHILD = textwrap.dedent(
    """
    import json, resource, sys
    from cloister.api import ImportConfig
    from cloister.datasets import Nowhere, import_rows
    from cloister.errors import InvalidInput

    def status(word):
        lines = open("/proc/self/status").read().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(word))

    for line in sys.stdin:
        path, settings = json.loads(line)
        open("/proc/self/clear_refs", "w").write("5")  # the high-water mark begins anew
        before, told, message = status("VmRSS"), [], None
        config = ImportConfig(source_name="f", holdout=0.1, **settings)
        keep = lambda problem: told.append(problem.format("f")) if len(told) < 3 else None
        with open(path, "rb", buffering=0) as source:
            try:
                import_rows(source, config, Nowhere(), report=keep, progress=lambda d, t: None)
            except InvalidInput as error:
                message = str(error)
        children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10
        grown = max(status("VmHWM"), children) - before
        print(json.dumps({"told": told, "message": message, "grown": grown}), flush=True)
    """
)


@pytest.fixture(scope="module")
def reader() -> Iterator[subprocess.Popen[str]]:
    """A process that imports what it is told to, one source a line, and says what came of it."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    yield child
    child.communicate()
    assert child.returncode == 0


def lines(*rows: str) -> bytes:
    return "\n".join([GOOD, *rows, GOOD]).encode()


def array(*rows: str) -> bytes:
    return ("[\n" + ",\n".join([GOOD, *rows, GOOD]) + "\n]").encode()


def gzip_bomb(mib: int) -> bytes:
    """So many MiB of zeros: about a thousandth of that."""
    packer = zlib.compressobj(9, wbits=31)
    return b"".join([*(packer.compress(bytes(MIB)) for _ in range(mib)), packer.flush()])


def zstd_bomb(blocks: int) -> bytes:
    """A frame of blocks that each say '128 KiB of this byte': four bytes a block."""
    block = (1 << 17 << 3 | 1 << 1).to_bytes(3, "little") + b"x"
    last = (1 << 17 << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"x"
    return b"\x28\xb5\x2f\xfd\x00\x58" + block * blocks + last


def zstd_window() -> bytes:
    """A frame that asks its reader to remember 2 TiB."""
    return b"\x28\xb5\x2f\xfd\x00" + bytes([31 << 3]) + (1 << 3 | 1).to_bytes(3, "little") + b"x"


def table(**columns: object) -> pa.Table:
    return pa.table({name: pa.array(values) for name, values in columns.items()})


def parquet(content: pa.Table, **options: object) -> bytes:
    out = io.BytesIO()
    pq.write_table(content, out, **options)
    return out.getvalue()


def flipped(data: bytes, begin: int, end: int, seed: int) -> bytes:
    """With a few random bytes in a range changed."""
    rng = random.Random(seed)
    held = bytearray(data)
    for _ in range(8):
        held[rng.randrange(begin, end)] ^= rng.randrange(1, 256)
    return bytes(held)


def invalid_utf8() -> bytes:
    good = pa.array(["fine", "also"])
    bad = pa.Array.from_buffers(pa.string(), 2, pa.array([b"fine", b"\xff" + SECRET.encode()]).buffers())
    return parquet(pa.table({"prompt": bad, "completion": good}), use_dictionary=False)


def footer(text: bytes) -> bytes:
    return b"PAR1" + text + struct.pack("<I", len(text)) + b"PAR1"


def one_value_many_times() -> bytes:
    """Twelve million rows of one long value, in some kilobytes."""
    values = pa.DictionaryArray.from_arrays(pa.array([0] * 200_000, pa.int32()), pa.array(["x" * 10_000]))
    answers = pa.DictionaryArray.from_arrays(pa.array([0] * 200_000, pa.int32()), pa.array(["y"]))
    out = io.BytesIO()
    one = pa.table({"prompt": values, "completion": answers})
    with pq.ParquetWriter(out, one.schema, compression="zstd") as writer:
        for _ in range(60):
            writer.write_table(one)
    return out.getvalue()


def varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def huge_page() -> bytes:
    """A page whose header says that it unpacks to 2 GB."""
    words = [
        f"{number} " * 200 for number in range(200)
    ]  # several pages: what is added here is cut off there
    good = parquet(
        table(text=words),
        compression="zstd",
        use_dictionary=False,
        data_page_size=10_000,
        write_batch_size=10,
    )
    assert good[4:7] == b"\x15\x00\x15"  # its kind, then its unpacked size as a zigzag varint
    rest = good[7:]
    while rest[0] & 0x80:
        rest = rest[1:]
    return good[:7] + varint(2 * 2_000_000_000) + rest[1:]


def damaged_pages() -> bytes:
    rng = random.Random(3)
    words = [f"{rng.random()}" for _ in range(2000)]
    good = parquet(table(prompt=words, completion=words), use_dictionary=False, compression="zstd")
    return flipped(good, 8, 400, 7)


def deep_schema() -> bytes:
    """A footer whose schema is nested thirty thousand deep."""
    # SchemaElement {3: repetition, 4: name, 5: num_children}, compact protocol
    root = b"\x48\x01r\x15\x02\x00"
    inner = b"\x35\x02\x18\x01a\x15\x02\x00"
    leaf = b"\x15\x0c\x25\x02\x18\x01a\x00"
    count = 30_002
    size = bytearray()
    while count >= 0x80:
        size.append(count & 0x7F | 0x80)
        count >>= 7
    size.append(count)
    schema = b"\xfc" + bytes(size) + root + inner * 30_000 + leaf
    return footer(b"\x15\x02\x19" + schema + b"\x16\x00\x19\x0c\x00")


SOURCES: dict[str, tuple[Callable[[], bytes], str, dict[str, object]]] = {
    # JSON lines
    "jsonl: an answer that is empty": (
        lambda: lines(GOOD.replace('"b"', '""')),
        "f:2: messages[1].content: is empty",
        {},
    ),
    "jsonl: nested a hundred thousand deep": (
        lambda: lines('{"messages":' + "[" * 100_000),
        "f:2: row: nested too deeply",
        {},
    ),
    "jsonl: a key twice": (
        lambda: lines(GOOD.replace('"role"', '"role": "user", "role"', 1)),
        "f:2: messages[0].role: comes twice in one object",
        {},
    ),
    "jsonl: a number of a million digits": (
        lambda: lines(GOOD.replace('"a"', "9" * 1_000_000)),
        "f:2: messages[0].content: must be a string",
        {},
    ),
    "jsonl: an endless line": (
        lambda: lines('{"messages":"' + "x" * (40 * MIB)),
        "f:2: row: longer than 1048576 bytes",
        {},
    ),
    "chat: a tool that nobody called": (
        lambda: lines(
            GOOD.replace('{"role": "assistant"', '{"role": "tool", "content": "x"}, {"role": "assistant"')
        ),
        "f:2: messages[1].role: answers no call of the assistant's turn before it",
        {},
    ),
    "chat: a call whose arguments are no JSON": (
        lambda: lines(
            '{"messages":[{"role":"user","content":"a"},{"role":"assistant","tool_calls":'
            '[{"function":{"name":"f","arguments":"{' + SECRET + '"}}]}]}'
        ),
        "f:2: messages[1].tool_calls[0].function.arguments: must be a JSON object, or the text of one",
        {},
    ),
    "sharegpt: an unknown speaker": (
        lambda: (
            b'{"conversations":[{"from":"' + SECRET.encode() + b'","value":"x"},{"from":"gpt","value":"y"}]}'
        ),
        "f:1: conversations[0].from: must be one of system, human, user, gpt, assistant, function_call, "
        "observation, tool",
        {},
    ),
    "alpaca: a history that is none": (
        lambda: b'{"instruction":"a","output":"b","history":[["x"]]}',
        "f:1: history[0]: must be a pair of question and answer",
        {},
    ),
    "chat: turns as a text nested a hundred thousand deep": (
        lambda: lines(json.dumps({"messages": "[" * 100_000 + SECRET})),
        "f:2: messages: must be an array of turns",
        {},
    ),
    # JSON arrays
    "array: never closed": (
        lambda: b"[\n" + GOOD.encode() + b",\n",
        "f:3: row: the array is never closed",
        {},
    ),
    "array: a comma is missing": (
        lambda: b"[" + GOOD.encode() + b"\n" + GOOD.encode() + b"]",
        "f:2: row: a comma is missing between two elements",
        {},
    ),
    "array: a million open brackets": (
        lambda: b"[\n" + b"[" * 3_000_000,
        "f:2: row: an element is longer than 1048576 bytes (is a quote or bracket never closed?)",
        {},
    ),
    "array: a quote that is never closed": (
        lambda: b"[\n" + (b'{"messages":"' + b"x, " * 5_000_000),
        "f:2: row: an element is longer than 1048576 bytes (is a quote or bracket never closed?)",
        {},
    ),
    "array: a bad row": (lambda: array('{"messages":[3]}'), "f:3: messages[0]: must be an object", {}),
    "array: something after it": (
        lambda: array() + b"\n" + SECRET.encode(),
        "f:5: row: something stands after the end of the array",
        {},
    ),
    # tables
    "csv: a quote that is never closed": (
        lambda: b'prompt,completion\na,b\n"' + b"line, of many\n" * 1_000_000,
        "f:3: row: longer than 1048576 bytes (is a quote never closed?)",
        {},
    ),
    "csv: a column too many": (
        lambda: b"prompt;completion\na;b\na;b;" + SECRET.encode() + b"\n",
        "f:3: row: has 3 fields where the header has 2",
        {},
    ),
    "csv: a group that is prose": (
        lambda: b"prompt,completion,site\na,b,x\na,b," + b"word " * 100 + b"\n",
        "f:3: site: is longer than 256 characters, too long for a group",
        {"columns": {"groups": ["site"]}},
    ),
    # plain text
    "text: bytes of another encoding": (
        lambda: b"fine\n\nfine\n" + "Käse".encode("latin-1") + b"\n",
        "f:3: row: invalid UTF-8 on line 2 of the row",
        {},
    ),
    "text: one endless paragraph": (
        lambda: b"word\n" * 8_000_000,
        "f:1: row: longer than 1048576 bytes",
        {},
    ),
    "utf-16: cut within a character": (
        lambda: "Käse\n".encode("utf-16") * 500_000 + b"\0",
        "f:500001: row: has bytes that are not utf-16-le",
        {},
    ),
    # packed
    "gzip: a bomb": (
        lambda: gzip_bomb(300),
        "f:1: row: the gzip data expands more than 250-fold",
        {"max_dropped": 9},
    ),
    "zstd: a bomb": (
        lambda: zstd_bomb(20_000),
        "f:1: row: the zstd data expands more than 250-fold",
        {"max_dropped": 9},
    ),
    "zstd: a window of terabytes": (
        zstd_window,
        "f:1: row: the zstd data asks for a window of more than 128 MiB",
        {},
    ),
    "gzip: cut off": (
        lambda: gzip.compress(lines(*[GOOD] * 200_000))[:-9],
        "f:{line}: row: the gzip data is cut off",
        {},
    ),
    "gzip: a wrong check sum": (
        lambda: gzip.compress(lines())[:-8] + bytes(8),
        "f:1: row: the gzip data is damaged",
        {},
    ),
    "zstd: damaged": (
        lambda: (
            zstandard.compress(lines(*[GOOD] * 1000)) + b"\x28\xb5\x2f\xfd\x00\x58" + b"\x05\x01\x00" * 999
        ),
        "f:{line}: row: the zstd data is damaged",
        {},
    ),
    "gzip: packed twice": (
        lambda: gzip.compress(zstandard.compress(lines())),
        "this is zstd data inside gzip data",
        {},
    ),
    # Parquet
    "parquet: no footer": (
        lambda: b"PAR1" + SECRET.encode() * 10_000 + b"PAR1",
        "f:footer: row: the footer is damaged, or is none",
        {},
    ),
    "parquet: a footer longer than the file": (
        lambda: b"PAR1" + bytes(100) + b"\xff\xff\xff\x7fPAR1",
        "f:footer: row: the footer is damaged, or is none",
        {},
    ),
    "parquet: a footer of a billion columns": (
        lambda: footer(b"\x15\x02\x19\xfc\xff\xff\xff\xff\x03" + bytes(64)),
        "f:footer: row: the footer is damaged, or is none",
        {},
    ),
    "parquet: a schema nested without end": (deep_schema, "f:footer: row: ", {}),
    "parquet: names of classes nested without end": (
        lambda: parquet(
            table(prompt=["p"], completion=[1]).replace_schema_metadata({"huggingface": "[" * 4_000_000})
        ),
        "f:row group 0, row 0: completion: must be a string",
        {},
    ),
    "parquet: damaged pages": (
        damaged_pages,
        "f:row group 0: row: ",
        {},
    ),
    "parquet: text that is none": (invalid_utf8, "f:row group 0, row 1: row: invalid UTF-8", {}),
    "parquet: numbers for text": (
        lambda: parquet(table(prompt=["p", "q", "r"], completion=[1, 2, 3]), row_group_size=2),
        "f:row group 0, row 0: completion: must be a string",
        {},
    ),
    "parquet: an empty answer in the second group": (
        lambda: parquet(table(prompt=["p", "q", "r"], completion=["a", "b", None]), row_group_size=2),
        "f:row group 1, row 0: completion: is empty",
        {},
    ),
    "parquet: one value twelve million times": (
        one_value_many_times,
        "the Parquet file expands more than 250-fold",
        {},
    ),
    "parquet: a page of 2 GB": (
        huge_page,
        "f:row group 0: row: takes more than 776 MiB of memory to read",
        {},
    ),
}


@pytest.mark.parametrize("name", SOURCES)
def test_it_is_refused_by_place_and_rule_in_bounded_memory_and_time(
    tmp_path: Path, reader: subprocess.Popen[str], name: str
) -> None:
    make, told, config = SOURCES[name]
    path = tmp_path / "source"
    path.write_bytes(make())
    assert reader.stdin is not None
    assert reader.stdout is not None
    begin = time.monotonic()
    print(json.dumps([str(path), config]), file=reader.stdin, flush=True)
    said = reader.stdout.readline()
    seconds = time.monotonic() - begin
    assert said, "the reader has crashed"
    got = json.loads(said)
    assert got["message"] is not None
    assert SECRET not in said
    first = got["told"][0] if got["told"] else got["message"]
    before, _, after = told.partition("{line}")
    assert before in first, got
    assert after in first, got
    assert got["grown"] < LIMIT
    assert seconds < 120


def every_kind() -> Iterator[bytes]:
    rows = [{"prompt": f"p{n}", "completion": "c" * (n % 7 + 1)} for n in range(40)]
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    yield text
    yield json.dumps(rows, indent=1).encode()
    yield gzip.compress(text)
    yield zstandard.compress(text)
    yield parquet(pa.Table.from_pylist(rows), row_group_size=16)
    yield parquet(pa.Table.from_pylist([{"messages": json.loads(GOOD)["messages"]}] * 40), compression="gzip")


@pytest.mark.parametrize("kind", range(6))
def test_random_damage_is_refused_or_harmless(bring_in, kind: int) -> None:
    from cloister.errors import InvalidInput

    whole = list(every_kind())[kind]
    for seed in range(25 if kind < 4 else 6):
        rng = random.Random(seed)
        data = flipped(whole, 0, len(whole), seed) if seed % 2 else whole[: rng.randrange(1, len(whole))]
        try:
            bring_in(data)
        except InvalidInput as error:
            assert error.where
            assert error.where.startswith("rows.txt")


def crashing(how: Callable[[], object]) -> Callable[[], Iterator[Said]]:
    def read() -> Iterator[Said]:
        yield Encoded(encoded([Row(text="one")]))
        yield At("row group 3")
        how()

    return read


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "the reader of the file crashed (signal 11)"),
        (lambda: os.abort(), "the reader of the file crashed (signal 6)"),
        (
            lambda: os.kill(os.getpid(), signal.SIGKILL),
            "reading the file was ended by the system: memory ran out",
        ),
        (lambda: bytearray(256 * MIB), "takes more than 64 MiB of memory to read"),
        (lambda: {}[SECRET], "the reader of the file crashed (exit status 1)"),
    ],
    ids=["segmentation fault", "abort", "killed", "memory", "exception"],
)
def test_a_reader_that_crashes_is_told_by_its_place(how: Callable[[], object], told: str) -> None:
    apart = ReadApart(crashing(how), memory=64 * MIB, what="file")
    rows = apart.rows(ProblemLog(lambda problem: None))
    assert len(next(rows)) == 1
    with pytest.raises(Unreadable) as broken:
        next(rows)
    assert (broken.value.message, broken.value.place) == (told, "row group 3")
    assert SECRET not in str(broken.value)


def test_a_reader_that_nobody_hears_ends() -> None:
    def endless() -> Iterator[Said]:
        while True:
            yield Encoded(encoded([Row(text="x" * MIB)]))

    apart = ReadApart(endless, memory=64 * MIB, what="file")
    assert apart.close() != 0
