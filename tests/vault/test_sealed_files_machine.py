"""A state machine over sealed files: writers, crashes, damage and readers, against a model of what is there."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cloister.errors import CloisterError, Conflict
from cloister.vault import CHUNK, HEADER, TAG, SealedReader, SealedWriter
from cloister.vault.files import BLOCK

KEY, CONTEXT = bytes(range(32)), b"here"
NAMES = ("a", "b", "c")
STRIDE = CHUNK + TAG
SIZES = st.one_of(
    st.integers(0, 64),
    st.sampled_from(
        [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK - 1, BLOCK - HEADER, BLOCK, BLOCK + 1]
    ),
)
SEEDS = st.integers(0, 2**32 - 1)
PICKS = st.integers(0, 3)


def made_up(seed: int, count: int) -> bytes:
    return random.Random(seed).randbytes(count)


def chosen(names: Iterable[str], pick: int) -> str:
    ordered = sorted(names)
    return ordered[pick % len(ordered)]


class SealedFiles(RuleBasedStateMachine):
    """At any moment a name has the content last closed under it, or none; nothing half-written shows."""

    steps = 0
    opened = 0

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
        self.there: dict[str, bytes] = {}
        self.writers: dict[str, tuple[SealedWriter, bytearray]] = {}
        self.readers: list[tuple[SealedReader, bytes]] = []

    def teardown(self) -> None:
        for reader, _ in self.readers:
            reader.close()
        for writer, _ in self.writers.values():
            writer.abort()
        shutil.rmtree(self.folder)

    def path(self, name: str) -> Path:
        return self.folder / name

    @rule(name=st.sampled_from(NAMES))
    def begin(self, name: str) -> None:
        if name in self.writers:
            # A second writer takes the place of the first, which then cannot appear.
            old, _ = self.writers[name]
            self.writers[name] = (SealedWriter(self.path(name), KEY, CONTEXT), bytearray())
            with pytest.raises(Conflict):
                old.close()
            return
        self.writers[name] = (SealedWriter(self.path(name), KEY, CONTEXT), bytearray())

    @precondition(lambda self: self.writers)
    @rule(pick=PICKS, count=SIZES, seed=SEEDS)
    def write(self, pick: int, count: int, seed: int) -> None:
        writer, content = self.writers[chosen(self.writers, pick)]
        piece = made_up(seed, count)
        assert writer.write(piece) == count
        content += piece
        assert writer.size == len(content)

    @precondition(lambda self: self.writers)
    @rule(pick=PICKS)
    def close(self, pick: int) -> None:
        name = chosen(self.writers, pick)
        writer, content = self.writers.pop(name)
        seal = writer.close()
        assert (seal.size, seal.sealed_size) == (len(content), self.path(name).stat().st_size)
        assert self.path(name).read_bytes()[:HEADER].hex() == seal.header
        self.there[name] = bytes(content)
        self.take_up(name)

    @precondition(lambda self: self.writers)
    @rule(pick=PICKS)
    def abort(self, pick: int) -> None:
        self.writers.pop(chosen(self.writers, pick))[0].abort()

    @precondition(lambda self: self.writers)
    @rule(pick=PICKS, kept=st.floats(0, 1))
    def crash(self, pick: int, kept: float) -> None:
        """The process dies: some beginning of what it wrote stays under the part file's name."""
        name = chosen(self.writers, pick)
        part = self.path(f"{name}.part")
        beginning = part.read_bytes()
        self.writers.pop(name)[0].abort()
        part.write_bytes(beginning[: int(kept * len(beginning))])

    @precondition(lambda self: self.there)
    @rule(pick=PICKS)
    def open(self, pick: int) -> None:
        self.take_up(chosen(self.there, pick))

    def take_up(self, name: str) -> None:
        """Another reader, which keeps what it opened whatever happens to the name."""
        if len(self.readers) < 4:
            self.readers.append((SealedReader(self.path(name), KEY, CONTEXT), self.there[name]))
            type(self).opened += 1

    @precondition(lambda self: self.readers)
    @rule(which=PICKS, at=st.floats(0, 1), count=SIZES)
    def read(self, which: int, at: float, count: int) -> None:
        """A reader reads what it opened, also after the name has another file."""
        reader, content = self.readers[which % len(self.readers)]
        offset = int(at * (len(content) + 2))
        assert reader.read(offset, count) == content[offset : offset + count]

    @precondition(lambda self: self.readers)
    @rule(which=PICKS, size=st.sampled_from([1, CHUNK, 1 << 20]), ahead=st.booleans())
    def stream(self, which: int, size: int, ahead: bool) -> None:
        reader, content = self.readers[which % len(self.readers)]
        assert b"".join(map(bytes, reader.stream(size, read_ahead=ahead))) == content

    @precondition(lambda self: self.readers)
    @rule(which=PICKS)
    def leave(self, which: int) -> None:
        self.readers.pop(which % len(self.readers))[0].close()

    @precondition(lambda self: self.there)
    @rule(pick=PICKS)
    def remove(self, pick: int) -> None:
        name = chosen(self.there, pick)
        del self.there[name]
        self.path(name).unlink()

    @precondition(lambda self: self.there)
    @rule(pick=PICKS, at=st.floats(0, 1), bit=st.integers(0, 7))
    def flip(self, pick: int, at: float, bit: int) -> None:
        def change(data: bytearray) -> None:
            data[min(int(at * len(data)), len(data) - 1)] ^= 1 << bit

        self.damaged(chosen(self.there, pick), change)

    @precondition(lambda self: self.there)
    @rule(pick=PICKS, count=st.integers(1, 40_000))
    def cut(self, pick: int, count: int) -> None:
        def change(data: bytearray) -> None:
            del data[-count:]

        self.damaged(chosen(self.there, pick), change)

    @precondition(lambda self: self.there)
    @rule(pick=PICKS, count=st.integers(1, 64), seed=SEEDS)
    def extend(self, pick: int, count: int, seed: int) -> None:
        def change(data: bytearray) -> None:
            data += made_up(seed, count)

        self.damaged(chosen(self.there, pick), change)

    @precondition(lambda self: self.there)
    @rule(pick=PICKS, one=st.integers(0, 8), two=st.integers(0, 8))
    def swap_chunks(self, pick: int, one: int, two: int) -> None:
        def change(data: bytearray) -> None:
            first, second = (HEADER + number * STRIDE for number in (one, two))
            if max(first, second) + STRIDE <= len(data):
                kept = data[first : first + STRIDE]
                data[first : first + STRIDE] = data[second : second + STRIDE]
                data[second : second + STRIDE] = kept

        self.damaged(chosen(self.there, pick), change)

    def damaged(self, name: str, change: Callable[[bytearray], None]) -> None:
        """A changed file is found out by the time it is read whole, and restored it is as it was."""
        path = self.path(name)
        good = path.read_bytes()
        bad = bytearray(good)
        change(bad)
        path.rename(self.folder / "good")  # readers that are open keep the good one
        path.write_bytes(bad)
        try:
            for whole in (
                lambda reader: reader.read(0, reader.size),
                lambda reader: b"".join(map(bytes, reader.stream())),
            ):
                try:
                    with SealedReader(path, KEY, CONTEXT) as reader:
                        content = whole(reader)
                except CloisterError as error:
                    assert error.where == str(path)
                    assert bad != good
                else:
                    assert bad == good and content == self.there[name]
        finally:
            (self.folder / "good").replace(path)

    @invariant()
    def what_is_there_is_whole(self) -> None:
        type(self).steps += 1
        for name in NAMES:
            assert self.path(name).exists() == (name in self.there)
            if name in self.there:
                with SealedReader(self.path(name), KEY, CONTEXT) as reader:
                    assert reader.size == len(self.there[name])


def run_machine(examples: int, *, derandomize: bool = True) -> int:
    SealedFiles.steps = SealedFiles.opened = 0
    run_state_machine_as_test(
        SealedFiles,
        settings=settings(
            max_examples=examples,
            stateful_step_count=60,
            derandomize=derandomize,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert SealedFiles.opened > examples // 4
    return SealedFiles.steps


def test_sealed_files_behave_as_their_model() -> None:
    assert run_machine(60) >= 2_000


@pytest.mark.soak
def test_soak_sealed_files_behave_as_their_model() -> None:
    print(f"soak: steps={run_machine(1_000, derandomize=False)} opened={SealedFiles.opened}")
