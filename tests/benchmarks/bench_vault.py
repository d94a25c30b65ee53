"""Sealed files against the raw AES-GCM limit, the library's bare Cobblestone, and `age`, in one run.

    python tests/benchmarks/bench_vault.py [--mib 128] [--rounds 7] [--dir /dev/shm] [--disk FOLDER]

GiB of content a second: by the clock, and by processor time of all threads, which tells how much work
it is where the machine is busy. All sides take turns in each round; each one's best round counts.
`age` runs as its own program on the same bytes. Files are in the page cache, but for those of the lines
that say `cold`: they lie below --disk and are dropped from the cache before each reading.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cloister.vault import CHUNK, HEADER, TAG, SealedReader, SealedWriter

PIECE = 1 << 20
RUN = 8 << 20
STRIDE = CHUNK + TAG
CONTEXT = b"benchmark"
KEY = bytes(range(32))

Work = Callable[[], object]


def processor_seconds() -> float:
    """Of this process and of the programs that it ran."""
    mine, theirs = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return mine.ru_utime + mine.ru_stime + theirs.ru_utime + theirs.ru_stime


def together(work: Callable[[int], object]) -> None:
    """Runs `work(0)` and `work(1)` on two threads."""
    threads = [threading.Thread(target=work, args=(turn,)) for turn in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def raw_aes(size: int, piece: int, *, encrypt: bool) -> Work:
    aead, nonce = AESGCM(KEY), bytes(12)
    plain, sealed = bytearray(piece), bytearray(piece + TAG)
    aead.encrypt_into(nonce, plain, None, sealed)

    def work() -> None:
        for _ in range(size // piece):
            if encrypt:
                aead.encrypt_into(nonce, plain, None, sealed)
            else:
                aead.decrypt_into(nonce, sealed, None, plain)

    return work


def writing(size: int, folder: Path) -> dict[str, Work]:
    piece, room = os.urandom(PIECE), memoryview(bytearray(2 * PIECE))
    pieces = size // PIECE

    def bare_memory() -> None:
        encryptor = Cobblestone256Encryptor(KEY, CONTEXT)
        for _ in range(pieces):
            encryptor.update_into(piece, room)
        encryptor.finalize()

    def bare_file() -> None:
        encryptor = Cobblestone256Encryptor(KEY, CONTEXT)
        with (folder / "bare").open("wb", buffering=0) as file:
            for _ in range(pieces):
                file.write(room[: encryptor.update_into(piece, room)])
            file.write(encryptor.finalize())
            os.fsync(file.fileno())

    def plain_file() -> None:
        with (folder / "plain").open("wb", buffering=0) as file:
            for _ in range(pieces):
                file.write(piece)
            os.fsync(file.fileno())

    def sealed(name: str, share: int = 1) -> None:
        with SealedWriter(folder / name, KEY, CONTEXT) as writer:
            for _ in range(pieces // share):
                writer.write(piece)

    return {
        "encrypt: raw AES-GCM, 16 KiB": raw_aes(size, CHUNK, encrypt=True),
        "encrypt: raw AES-GCM, 1 MiB": raw_aes(size, PIECE, encrypt=True),
        "encrypt: bare Cobblestone, memory": bare_memory,
        "write: plain file": plain_file,
        "write: bare Cobblestone, file": bare_file,
        "write: sealed (with SHA-256)": lambda: sealed("sealed"),
        "write: sealed, two files, two threads": lambda: together(lambda turn: sealed(f"half{turn}", 2)),
    }


def reading(size: int, folder: Path, reader: SealedReader) -> dict[str, Work]:
    path = folder / "sealed"
    content = memoryview(path.read_bytes())
    step = PIECE // CHUNK * STRIDE
    room, large = memoryview(bytearray(2 * PIECE)), [memoryview(bytearray(RUN)) for _ in range(2)]
    scratch = memoryview(bytearray(step))

    def bare_memory() -> None:
        decryptor = Cobblestone256Decryptor(KEY, CONTEXT)
        decryptor.update_into(content[:HEADER], room)
        for at in range(HEADER, len(content), step):
            decryptor.update_into(content[at : at + step], room)
        decryptor.finalize()

    def bare_file(target: memoryview) -> None:
        decryptor = Cobblestone256Decryptor(KEY, CONTEXT)
        at = 0
        with path.open("rb", buffering=0) as file:
            decryptor.update_into(file.read(HEADER), room)
            while count := file.readinto(scratch):
                at += decryptor.update_into(scratch[:count], target[at:])
                if at + PIECE > len(target):
                    at = 0
        decryptor.finalize()

    def stream(source: SealedReader, *, read_ahead: bool = False) -> None:
        for _ in source.stream(PIECE, read_ahead=read_ahead):
            pass

    def stream_half(turn: int) -> None:
        with SealedReader(folder / f"half{turn}", KEY, CONTEXT) as half:
            stream(half)

    def long_runs(turn: int, share: int) -> None:
        order = random.Random(turn)
        for _ in range(size // RUN // share):
            reader.read_into(order.randrange(0, size - RUN), large[turn])

    return {
        "decrypt: raw AES-GCM, 16 KiB": raw_aes(size, CHUNK, encrypt=False),
        "decrypt: raw AES-GCM, 1 MiB": raw_aes(size, PIECE, encrypt=False),
        "decrypt: bare Cobblestone, memory": bare_memory,
        "read: bare Cobblestone, file, 1 MiB": lambda: bare_file(room),
        "read: bare Cobblestone, file, 8 MiB": lambda: bare_file(large[0]),
        "read: stream": lambda: stream(reader),
        "read: stream, reading ahead": lambda: stream(reader, read_ahead=True),
        "read: stream, two files, two threads": lambda: together(stream_half),
        "read: random 8 MiB runs": lambda: long_runs(0, 1),
        "read: random 8 MiB runs, two threads": lambda: together(lambda turn: long_runs(turn, 2)),
    }


def with_age(folder: Path) -> dict[str, Work]:
    """`age` on the plain file; nothing where it is not installed."""
    age, keygen = shutil.which("age"), shutil.which("age-keygen")
    if age is None or keygen is None:
        return {}
    identity, aged = folder / "identity", folder / "aged"
    subprocess.run([keygen, "-o", identity], check=True, capture_output=True)
    shown = subprocess.run([keygen, "-y", identity], check=True, capture_output=True, text=True)
    seal = [age, "-r", shown.stdout.strip(), "-o", aged, folder / "plain"]
    unseal = [age, "-d", "-i", identity, "-o", "/dev/null", aged]
    return {
        "write: age": lambda: subprocess.run(seal, check=True),
        "read: age": lambda: subprocess.run(unseal, check=True),
    }


def cold(size: int, folder: Path, disk: Path) -> dict[str, Work]:
    """Reading what is not in the page cache, from a disk."""
    places = {name: disk / name for name in ("plain", "sealed", "aged")}
    for name, place in places.items():
        if (folder / name).exists():
            shutil.copyfile(folder / name, place)
            with place.open("rb") as file:
                os.fsync(file.fileno())
    room = memoryview(bytearray(PIECE))

    def dropped(name: str) -> Path:
        descriptor = os.open(places[name], os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
        return places[name]

    def plain() -> None:
        with dropped("plain").open("rb", buffering=0) as file:
            while file.readinto(room):
                pass

    def sealed(*, read_ahead: bool) -> None:
        with SealedReader(dropped("sealed"), KEY, CONTEXT) as reader:
            for _ in reader.stream(PIECE, read_ahead=read_ahead):
                pass

    works: dict[str, Work] = {
        "read cold: plain file": plain,
        "read cold: stream": lambda: sealed(read_ahead=False),
        "read cold: stream, reading ahead": lambda: sealed(read_ahead=True),
    }
    if places["aged"].exists():
        unseal = [shutil.which("age") or "age", "-d", "-i", folder / "identity", "-o", "/dev/null"]
        works["read cold: age"] = lambda: subprocess.run([*unseal, dropped("aged")], check=True)
    return works


def measure(size: int, rounds: int, folder: Path, disk: Path) -> dict[str, tuple[float, float]]:
    """Name to GiB/s by the clock and by processor time."""
    writes = writing(size, folder)
    for name in (
        "write: plain file",
        "write: sealed (with SHA-256)",
        "write: sealed, two files, two threads",
    ):
        writes[name]()
    aged = with_age(folder)
    if aged:
        aged["write: age"]()
    with SealedReader(folder / "sealed", KEY, CONTEXT) as reader:
        works = {**writes, **reading(size, folder, reader), **aged, **cold(size, folder, disk)}
        best = dict.fromkeys(works, (0.0, 0.0))
        for _ in range(rounds):
            for name, work in works.items():
                clock, busy = time.perf_counter(), processor_seconds()
                work()
                spent = (time.perf_counter() - clock, max(processor_seconds() - busy, 1e-9))
                best[name] = tuple(
                    max(old, size / 2**30 / s) for old, s in zip(best[name], spent, strict=True)
                )  # type: ignore[assignment]
    return best


def rows_a_second(path: Path, rows: int = 10_000) -> float:
    """Random reads of 600 bytes, by processor time."""
    order, row = random.Random(3), bytearray(600)
    with SealedReader(path, KEY, CONTEXT) as reader:
        start = processor_seconds()
        for _ in range(rows):
            reader.read_into(order.randrange(0, reader.size - len(row)), row)
        return rows / (processor_seconds() - start)


COMPARED = (
    ("read: stream", "read: bare Cobblestone, file, 1 MiB"),
    ("read: stream, reading ahead", "read: bare Cobblestone, file, 1 MiB"),
    ("read: random 8 MiB runs", "read: bare Cobblestone, file, 8 MiB"),
    ("read: stream", "decrypt: bare Cobblestone, memory"),
    ("read: stream", "decrypt: raw AES-GCM, 16 KiB"),
    ("read: stream", "decrypt: raw AES-GCM, 1 MiB"),
    ("read: stream", "read: age"),
    ("read: stream, reading ahead", "read: age"),
    ("read: stream, two files, two threads", "read: age"),
    ("read: random 8 MiB runs", "read: age"),
    ("read cold: stream", "read cold: plain file"),
    ("read cold: stream", "read cold: age"),
    ("write: sealed (with SHA-256)", "write: bare Cobblestone, file"),
    ("write: sealed (with SHA-256)", "encrypt: raw AES-GCM, 16 KiB"),
    ("write: sealed (with SHA-256)", "write: age"),
    ("write: sealed, two files, two threads", "write: age"),
)


def main() -> None:
    options = argparse.ArgumentParser(description="Sealed files against AES-GCM, bare Cobblestone and age.")
    options.add_argument("--mib", type=int, default=128)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--dir", default="/dev/shm", help="where the files are written")
    options.add_argument("--disk", default=None, help="a folder on a disk, for what is read cold")
    chosen = options.parse_args()
    with (
        tempfile.TemporaryDirectory(dir=chosen.dir) as name,
        tempfile.TemporaryDirectory(dir=chosen.disk) as disk,
    ):
        folder = Path(name)
        speeds = measure(chosen.mib << 20, chosen.rounds, folder, Path(disk))
        rows = rows_a_second(folder / "sealed")
    print(f"{chosen.mib} MiB in {chosen.dir}, best of {chosen.rounds} rounds, load {os.getloadavg()[0]:.1f}")
    print(f"{'GiB/s':<42}{'clock':>8}{'processor':>11}")
    for what, (clock, busy) in speeds.items():
        print(f"{what:<42}{clock:8.2f}{busy:11.2f}")
    print(f"{'rows of 600 bytes at random, a second':<42}{'':>8}{rows:11,.0f}")
    print(f"\n{'ratio':<78}{'clock':>8}{'processor':>11}")
    ratios: dict[str, list[float]] = {}
    for ours, theirs in COMPARED:
        if theirs in speeds:
            ratio = [round(a / b, 2) for a, b in zip(speeds[ours], speeds[theirs], strict=True)]
            ratios[f"{ours} / {theirs}"] = ratio
            print(f"{ours + ' / ' + theirs:<78}{ratio[0]:8.2f}{ratio[1]:11.2f}")
    rounded = {what: [round(value, 3) for value in speed] for what, speed in speeds.items()}
    print(json.dumps({"bench": "vault", "gib_per_s": rounded, "rows_per_s": round(rows), "ratios": ratios}))


if __name__ == "__main__":
    main()
