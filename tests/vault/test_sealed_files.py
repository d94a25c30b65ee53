"""Sealed files: what is written comes back from anywhere, and nothing else ever does."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from hypothesis import given
from hypothesis import strategies as st

from cloister.errors import Conflict, InvalidInput, NotFound, OutOfSpace, Tampered
from cloister.vault import (
    CHUNK,
    HEADER,
    TAG,
    PlainReader,
    PlainWriter,
    SealedReader,
    SealedWriter,
    object_context,
)

KEY = bytes(range(32))
CONTEXT = object_context("ds-000000000000", "dataset", 1, "rows.bin")
CONTENT = random.Random(0).randbytes(6 * CHUNK)

near_borders = st.builds(
    lambda chunk, by: max(0, chunk * CHUNK + by), st.integers(0, 5), st.integers(-20, 20)
)
sizes = st.one_of(near_borders, st.integers(0, 5 * CHUNK))


def seal(path: Path, content: bytes, key: bytes = KEY, context: bytes = CONTEXT) -> Path:
    with SealedWriter(path, key, context) as writer:
        writer.write(content)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sealed")


@given(size=sizes, piece=st.integers(1, 3 * CHUNK), data=st.data())
def test_round_trip_at_any_offset(folder: Path, size: int, piece: int, data: st.DataObject) -> None:
    path = folder / "any"
    with SealedWriter(path, KEY, CONTEXT) as writer:
        for at in range(0, size, piece):
            writer.write(CONTENT[at : min(size, at + piece)])
    seal = writer.seal
    on_disk = path.read_bytes()
    assert seal is not None
    assert (seal.size, seal.sealed_size) == (size, len(on_disk))
    assert seal.sealed_size == HEADER + size + TAG * (size // CHUNK + 1)
    assert seal.sha256 == hashlib.sha256(on_disk).hexdigest()
    assert seal.header == on_disk[:HEADER].hex()
    with SealedReader(path, KEY, CONTEXT) as reader:
        assert reader.size == size
        for _ in range(8):
            offset = data.draw(sizes)
            count = data.draw(sizes)
            assert reader.read(offset, count) == CONTENT[:size][offset : offset + count]
        buffer_size = data.draw(st.integers(1, 4 * CHUNK))
        for read_ahead in (False, True):
            pieces = [bytes(view) for view in reader.stream(buffer_size, read_ahead=read_ahead)]
            assert b"".join(pieces) == CONTENT[:size]


@given(size=sizes)
def test_the_library_reads_ours_and_we_read_the_librarys(folder: Path, size: int) -> None:
    ours = seal(folder / "ours", CONTENT[:size]).read_bytes()
    decryptor = Cobblestone256Decryptor(KEY, CONTEXT)
    assert decryptor.update(ours) + decryptor.finalize() == CONTENT[:size]
    encryptor = Cobblestone256Encryptor(KEY, CONTEXT)
    theirs = folder / "theirs"
    theirs.write_bytes(encryptor.update(CONTENT[:size]) + encryptor.finalize())
    with SealedReader(theirs, KEY, CONTEXT) as reader:
        assert reader.read(0, size + 1) == CONTENT[:size]


def test_two_files_of_one_key_share_no_salt_and_no_ciphertext(tmp_path: Path) -> None:
    one, two = (seal(tmp_path / name, bytes(CHUNK)).read_bytes() for name in ("one", "two"))
    assert one[:24] != two[:24]
    assert one[HEADER:] != two[HEADER:]


@given(size=sizes, data=st.data())
def test_one_byte_changed_anywhere_is_tampered(folder: Path, size: int, data: st.DataObject) -> None:
    path = seal(folder / "flipped", CONTENT[:size])
    sealed = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(sealed) - 1))
    sealed[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(sealed)
    with pytest.raises(Tampered) as caught, SealedReader(path, KEY, CONTEXT) as reader:
        reader.read(0, size)
    assert caught.value.where == str(path)
    with pytest.raises(Tampered), SealedReader(path, KEY, CONTEXT) as reader:
        list(reader.stream(CHUNK))


@given(size=sizes, data=st.data())
def test_a_cut_or_longer_file_does_not_open(folder: Path, size: int, data: st.DataObject) -> None:
    path = seal(folder / "cut", CONTENT[:size])
    sealed = path.read_bytes()
    length = data.draw(
        st.one_of(st.integers(0, len(sealed) - 1), st.sampled_from((HEADER, len(sealed) - TAG)))
    )
    for other in (sealed[:length], sealed + CONTENT[: 1 + length % 40_000]):
        path.write_bytes(other)
        with pytest.raises(Tampered, match="not what was written"):
            SealedReader(path, KEY, CONTEXT)


def test_a_file_cut_while_it_is_read_is_tampered(tmp_path: Path) -> None:
    path = seal(tmp_path / "rows.bin", CONTENT)
    with SealedReader(path, KEY, CONTEXT) as reader:
        os.truncate(path, HEADER + CHUNK)
        for read in (lambda: reader.read(0, len(CONTENT)), lambda: list(reader.stream())):
            with pytest.raises(Tampered):
                read()


def test_a_file_opens_with_its_own_key_in_its_own_place_only(tmp_path: Path) -> None:
    path = seal(tmp_path / "rows.bin", b"something")
    places = [
        object_context("ds-000000000001", "dataset", 1, "rows.bin"),
        object_context("ds-000000000000", "adapter", 1, "rows.bin"),
        object_context("ds-000000000000", "dataset", 2, "rows.bin"),
        object_context("ds-000000000000", "dataset", 1, "index.bin"),
    ]
    for key, context in [(bytes(32), CONTEXT), *((KEY, place) for place in places)]:
        with pytest.raises(Tampered, match="does not fit this key and this place"):
            SealedReader(path, key, context)
    with pytest.raises(InvalidInput):
        SealedReader(path, KEY[:16], CONTEXT)


@given(
    st.lists(
        st.tuples(st.text(max_size=4), st.text(max_size=4), st.integers(1, 300), st.text(max_size=4)),
        min_size=2,
        max_size=2,
        unique=True,
    )
)
def test_two_places_never_share_a_context(places: list[tuple[str, str, int, str]]) -> None:
    assert object_context(*places[0]) != object_context(*places[1])


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    seal(tmp_path / "file", b"content")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "fifo", "."):
        with pytest.raises(Tampered):
            SealedReader(tmp_path / name / "" if name == "." else tmp_path / name, KEY, CONTEXT)
    with pytest.raises(NotFound):
        SealedReader(tmp_path / "none", KEY, CONTEXT)


def test_descriptors_are_not_inherited(tmp_path: Path) -> None:
    path = seal(tmp_path / "file", b"content")
    with SealedReader(path, KEY, CONTEXT) as reader, SealedWriter(tmp_path / "new", KEY, CONTEXT) as writer:
        assert not os.get_inheritable(reader._descriptor)
        assert not os.get_inheritable(writer._part._descriptor)


def test_arguments_out_of_range(tmp_path: Path) -> None:
    path = seal(tmp_path / "file", b"content")
    with SealedReader(path, KEY, CONTEXT) as reader:
        assert reader.read(7, 5) == reader.read(10**15, 5) == reader.read(0, 0) == b""
        for bad in (
            lambda: reader.read(-1, 5),
            lambda: reader.read(0, -1),
            lambda: reader.read_into(0, b"x"),
        ):
            with pytest.raises(InvalidInput):
                bad()
    for closed in (lambda: reader.read(0, 5), lambda: next(reader.stream())):
        with pytest.raises(Conflict, match="closed"):
            closed()


def test_threads_share_a_reader(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(40 * CHUNK + 5)
    path = seal(tmp_path / "shared", content)
    wrong: list[int] = []

    def read(reader: SealedReader, seed: int) -> None:
        order = random.Random(seed)
        for _ in range(150):
            offset, count = order.randrange(len(content)), order.choice((1, 700, CHUNK, 20 * CHUNK))
            if reader.read(offset, count) != content[offset : offset + count]:
                wrong.append(offset)
        if b"".join(map(bytes, reader.stream(3 * CHUNK))) != content:
            wrong.append(-1)

    with SealedReader(path, KEY, CONTEXT) as reader:
        threads = [threading.Thread(target=read, args=(reader, seed)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_a_writer_leaves_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(RuntimeError), SealedWriter(path, KEY, CONTEXT) as writer:
        writer.write(bytes(3 << 20))
        assert [p.name for p in tmp_path.iterdir()] == ["file.part"]
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with pytest.raises(Conflict):
        writer.close()
    dropped = SealedWriter(path, KEY, CONTEXT)
    dropped.write(b"x")
    del dropped
    assert not list(tmp_path.iterdir())
    (tmp_path / "file.part").write_bytes(b"left by a writer that was killed")
    seal(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert writer.seal is None


def test_a_closed_writer_takes_no_more(tmp_path: Path) -> None:
    writer = SealedWriter(tmp_path / "file", KEY, CONTEXT)
    first = writer.close()
    assert writer.close() is first
    writer.abort()
    assert (tmp_path / "file").exists()
    with pytest.raises(Conflict):
        writer.write(b"x")


def test_the_second_of_two_writers_wins_alone(tmp_path: Path) -> None:
    first, second = (SealedWriter(tmp_path / "file", KEY, CONTEXT) for _ in range(2))
    first.write(b"first")
    second.write(b"second")
    with pytest.raises(Conflict):
        first.close()
    second.close()
    with SealedReader(tmp_path / "file", KEY, CONTEXT) as reader:
        assert reader.read(0, 100) == b"second"


def test_a_plain_file_reads_the_same_way(tmp_path: Path) -> None:
    path = tmp_path / "plain"
    with PlainWriter(path) as writer:
        writer.write(CONTENT)
        writer.write(memoryview(CONTENT)[:7])
    assert path.read_bytes() == CONTENT + CONTENT[:7]
    assert writer.seal is not None
    assert writer.seal.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (writer.seal.header, writer.seal.size) == (None, writer.seal.sealed_size)
    with PlainReader(path) as reader:
        assert reader.read(5, 100) == CONTENT[5:105]
        assert reader.read(len(CONTENT), 100) == CONTENT[:7]
        assert b"".join(map(bytes, reader.stream(1000))) == path.read_bytes()


FULL_DISK = """
import os, sys
from pathlib import Path
from cloister.errors import OutOfSpace
from cloister.vault import SealedWriter
folder = Path(sys.argv[1])
writer = SealedWriter(folder / "big", bytes(32), b"")
try:
    for _ in range(64):
        writer.write(bytes(1 << 17))
    writer.close()
except OutOfSpace as error:
    assert error.where == str(folder / "big"), error.where
    assert not list(folder.iterdir()), list(folder.iterdir())
    print("refused")
"""


def test_a_full_disk_is_out_of_space_and_leaves_nothing(tmp_path: Path) -> None:
    mount = f'mount -t tmpfs -o size=2m none {tmp_path} && exec {sys.executable} -c "$1" {tmp_path}'
    command = ["unshare", "-rm", "sh", "-c", mount, "sh", FULL_DISK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("no mount namespace of our own here")
    assert done.stdout == "refused\n", done.stderr


def test_a_file_size_limit_is_out_of_space(tmp_path: Path) -> None:
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n" + FULL_DISK
    done = subprocess.run(
        [sys.executable, "-c", limited, tmp_path], capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "refused\n", done.stderr
    assert OutOfSpace.exit_code == 10


MEMORY = """
import random, sys
from pathlib import Path
from cloister.vault import SealedReader, SealedWriter
path, piece, pieces = Path(sys.argv[1]), bytes(1 << 20), 300
def peak():  # not ru_maxrss: that begins with what the process had in memory that started this one
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
with SealedWriter(path, bytes(32), b"") as writer:
    for _ in range(pieces):
        writer.write(piece)
order, buffer = random.Random(0), bytearray(5 << 20)
with SealedReader(path, bytes(32), b"") as reader:
    assert sum(len(view) for view in reader.stream()) == reader.size == pieces << 20
    for _ in range(2000):
        reader.read(order.randrange(reader.size), 600)
    for _ in range(20):
        reader.read_into(order.randrange(reader.size), buffer)
print(peak() - before)
"""


def test_memory_stays_constant_for_a_large_file(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, tmp_path / "large"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 24 * 1024  # KiB, for 300 MiB of content


def test_only_the_training_libraries_are_needed() -> None:
    """The vault runs where neither the appliance's packages nor torch are installed."""
    known = "import sys; import cloister.vault; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", known], capture_output=True, text=True, check=True)
    third_party = set(done.stdout.split()) - set(sys.stdlib_module_names)
    ours = {name for name in third_party if not name.startswith("_") and "site" not in name}
    assert {"cloister", "cryptography", "msgspec"} <= ours
    assert not ours & {"rfc8785", "torch", "numpy", "pydantic", "sqlalchemy", "structlog", "yaml"}
