"""Searching a log: the index tells where to look, the log says what is true, and neither loses an entry."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_samples import ORIGIN

from cloister.errors import NotFound, Tampered
from cloister.ledger import Entry, Ledger, Settings
from cloister.ledger.index import Index
from cloister.ledger.merkle import leaf_hash
from cloister.ledger.query import Query, search
from cloister.ledger.reading import CheckedReader, LogFiles, Snapshot
from cloister.ledger.tiles import TileStore, Tree

Open = Callable[..., Ledger]
BEGIN = datetime(2026, 11, 1, tzinfo=UTC)
ACTIONS = ("run.start", "run.cancel", "job.done", "vault.unlock")


def entry(number: int, rng: random.Random) -> Entry:
    """The clock goes back by a day now and then, and some entries have a time that is none."""
    moment = BEGIN + timedelta(minutes=number) - timedelta(days=rng.random() < 0.05)
    return Entry(
        time="yesterday" if number % 97 == 96 else moment.isoformat(),
        actor=rng.choice(("alice", "bob", "cloisterd")),
        identified_by="self",
        action=rng.choice(ACTIONS),
        objects=tuple(f"rn-{rng.randrange(40):012d}" for _ in range(rng.randrange(3))),
        details={"number": number},
    )


def build(root: Path, count: int, seed: int = 1) -> tuple[Snapshot, list[bytes]]:
    rng = random.Random(seed)
    entries = [entry(number, rng).canonical() for number in range(count)]
    signed = max(0, count - 40)
    tree, _ = Tree(TileStore(root)).grow(entries[:signed], [leaf_hash(one) for one in entries[:signed]])
    return Snapshot(tree, entries[signed:]), entries


def plainly(entries: list[bytes], query: Query, limit: int) -> tuple[list[int], bool]:
    """The same answer by looking at everything."""
    import json

    stop = len(entries) if query.before is None else min(query.before, len(entries))
    found = [number for number in range(stop) if query.matches(json.loads(entries[number]))]
    return found[-limit:], len(found) > limit


def test_a_query_takes_what_fits_and_nothing_else() -> None:
    document = {
        "time": "2026-11-01T12:00:00+00:00",
        "actor": "alice",
        "action": "run.start",
        "objects": ["rn-000000000001", "ds-000000000002"],
    }
    noon = datetime(2026, 11, 1, 12, tzinfo=UTC)
    for query in (
        Query(),
        Query(actor="alice", action="run.*", object="ds-000000000002"),
        Query(actor="a*", since=noon, until=noon + timedelta(seconds=1)),
    ):
        assert query.matches(document)
    for query in (
        Query(actor="alic"),
        Query(action="run"),
        Query(object="rn-00000000000"),
        Query(since=noon + timedelta(microseconds=1)),
        Query(until=noon),
        Query(actor="*b"),
    ):
        assert not query.matches(document)
    assert not Query(since=noon).matches({**document, "time": "noon"})


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    actor=st.sampled_from([None, "alice", "b*", "nobody", "*"]),
    action=st.sampled_from([None, "run.start", "run.*", "job.done", "nothing"]),
    object_=st.sampled_from([None, "rn-000000000007", "rn-00000000003*", "rn-*", "ds-000000000000"]),
    since=st.one_of(st.none(), st.integers(-2000, 2000)),
    until=st.one_of(st.none(), st.integers(-2000, 2000)),
    before=st.one_of(st.none(), st.integers(0, 1300)),
    limit=st.integers(1, 60),
)
def test_with_and_without_an_index_the_answer_is_that_of_reading_everything(
    built: tuple[Snapshot, list[bytes], Index],
    actor: str | None,
    action: str | None,
    object_: str | None,
    since: int | None,
    until: int | None,
    before: int | None,
    limit: int,
) -> None:
    snapshot, entries, index = built
    query = Query(
        actor,
        action,
        object_,
        None if since is None else BEGIN + timedelta(minutes=since),
        None if until is None else BEGIN + timedelta(minutes=until),
        before,
    )
    expected, more = plainly(entries, query, limit)
    for which in (index, None):
        answer = search(CheckedReader(snapshot), which, query, limit)
        assert [match.index for match in answer.matches] == expected
        assert [match.entry for match in answer.matches] == [entries[number] for number in expected]
        assert answer.more == more


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Snapshot, list[bytes], Index]:
    folder = tmp_path_factory.mktemp("search")
    snapshot, entries = build(folder / "log", 1200)
    index = Index(folder / "index.db", ORIGIN)
    assert index.catch_up(CheckedReader(snapshot)) == 4
    return snapshot, entries, index


def test_an_index_spares_reading(tmp_path: Path) -> None:
    snapshot, entries = build(tmp_path / "log", 20_000)
    index = Index(tmp_path / "index.db", ORIGIN)
    index.catch_up(CheckedReader(snapshot))
    query = Query(actor="alice", action="run.start", object="rn-000000000011")
    indexed = search(CheckedReader(snapshot), index, query, 5)
    full = search(CheckedReader(snapshot), None, Query(actor="nobody"), 5)
    assert len(indexed.matches) == 5
    assert indexed.read <= 8 < full.read
    assert plainly(entries, query, 5) == ([match.index for match in indexed.matches], True)


QUERY = Query(actor="alice", action="run.start", object="rn-000000000003")


def check(snapshot: Snapshot, entries: list[bytes], index: Index) -> None:
    answer = search(CheckedReader(snapshot), index, QUERY, 1000)
    assert ([match.index for match in answer.matches], False) == plainly(entries, QUERY, 1000)


def corrupt(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(20):
        data[rng.randrange(100, len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def test_a_missing_stale_or_damaged_index_loses_nothing(tmp_path: Path) -> None:
    snapshot, entries = build(tmp_path / "log", 3000)
    path = tmp_path / "index.db"

    def fresh() -> Index:
        index = Index(path, ORIGIN)
        index.catch_up(CheckedReader(snapshot))
        return index

    fresh().close()
    assert path.stat().st_mode & 0o077 == 0
    whole = path.read_bytes()
    check(snapshot, entries, fresh())
    path.unlink()
    check(snapshot, entries, Index(path, ORIGIN))  # empty: all is read
    check(snapshot, entries, fresh())
    rng = random.Random(5)
    for spoil in range(12):
        index = fresh()
        index.close()
        if spoil == 0:
            path.write_bytes(b"")
        elif spoil == 1:
            path.write_bytes(b"no database at all" * 400)
        elif spoil == 2:
            path.write_bytes(whole[: len(whole) // 2])
        else:
            corrupt(path, rng)
        index = Index(path, ORIGIN)
        check(snapshot, entries, index)
        index.catch_up(CheckedReader(snapshot))
        check(snapshot, entries, index)
        index.close()
    # Rows that are whole but wrong: taken away, changed, or of another log.
    for statement in (
        "DELETE FROM postings WHERE bundle = 3",
        "UPDATE postings SET bits = zeroblob(32)",
        "UPDATE bundles SET first_us = 0, last_us = 1",
        "DELETE FROM terms",
        "DELETE FROM bundles WHERE bundle = (SELECT max(bundle) FROM bundles)",
        "UPDATE bundles SET root = zeroblob(32) WHERE bundle = 1",
        "UPDATE about SET value = 'other/log'",
    ):
        fresh().close()
        database = sqlite3.connect(path)
        assert database.execute(statement).rowcount > 0
        database.commit()
        database.close()
        index = Index(path, ORIGIN)
        check(snapshot, entries, index)
        index.close()
    check(snapshot, entries, fresh())


def test_the_index_of_another_past_is_not_used(tmp_path: Path) -> None:
    """A log that was restored from a copy may have gone on differently."""
    mine, entries = build(tmp_path / "log", 3000, seed=1)
    other, _ = build(tmp_path / "other", 5000, seed=2)
    path = tmp_path / "index.db"
    index = Index(path, ORIGIN)
    index.catch_up(CheckedReader(other))
    index.close()
    index = Index(path, ORIGIN)
    check(mine, entries, index)
    assert index.catch_up(CheckedReader(mine)) == 11
    check(mine, entries, index)


def test_an_index_that_invents_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it points to is read from the log: an entry that does not fit is not shown."""
    snapshot, entries = build(tmp_path / "log", 3000)
    index = Index(tmp_path / "index.db", ORIGIN)
    index.catch_up(CheckedReader(snapshot))
    monkeypatch.setattr(index, "positions", lambda wanted, stop: iter(range(stop - 1, -1, -7)))
    check(snapshot, entries, index)
    assert not index.path.exists()


def test_an_index_that_cannot_be_written_is_passed_over(tmp_path: Path) -> None:
    snapshot, entries = build(tmp_path / "log", 3000)
    (tmp_path / "file").write_text("in the way of a folder")
    check(snapshot, entries, Index(tmp_path / "file" / "index.db", ORIGIN))


def test_damage_in_the_log_is_named_by_a_search(tmp_path: Path) -> None:
    snapshot, _ = build(tmp_path / "log", 3000)
    index = Index(tmp_path / "index.db", ORIGIN)
    index.catch_up(CheckedReader(snapshot))
    store = TileStore(tmp_path / "log")
    bad = store.path(None, 3)
    data = bytearray(bad.read_bytes())
    data[5000] ^= 1
    bad.write_bytes(data)
    with pytest.raises(Tampered) as raised:
        search(CheckedReader(snapshot), index, Query(actor="bob"), 1000)
    assert raised.value.where == str(bad)
    # The leaf's hash, changed with it, does not fit the level above.
    leaves = b"".join(leaf_hash(one) for one in store.entries(3))
    store.path(0, 3).write_bytes(leaves)
    with pytest.raises(Tampered):
        search(CheckedReader(snapshot), index, Query(actor="bob"), 1000)


def test_another_processes_log_is_read_from_its_files(
    open_ledger: Open, tmp_path: Path, signer: Ed25519PrivateKey
) -> None:
    files = LogFiles(tmp_path / "log", ORIGIN)
    with pytest.raises(NotFound):
        files.snapshot()
    ledger = open_ledger(settings=Settings(sign_after_s=0.001))
    rng = random.Random(3)
    index = Index(tmp_path / "index.db", ORIGIN)
    for turn in range(8):
        for future in [ledger.submit(entry(turn * 100 + n, rng)) for n in range(100)]:
            future.result()
        ledger.flush()
        snapshot = files.snapshot()
        assert snapshot.size == 100 * (turn + 1)
        assert snapshot.head == ledger.head()
        index.catch_up(CheckedReader(snapshot))
        entries = list(ledger.raw_entries(0, ledger.size))
        assert list(CheckedReader(snapshot).entries(0, 10_000)) == entries
        check(snapshot, entries, index)
        check(ledger.snapshot(), entries, index)
    with pytest.raises(Tampered, match="another log"):
        LogFiles(tmp_path / "log", "other/log").snapshot()
    note = (tmp_path / "log" / "checkpoint").read_text()
    (tmp_path / "log" / "checkpoint").write_text(note.replace("\n800\n", "\n799\n"))
    with pytest.raises(Tampered, match="cannot be believed"):
        LogFiles(tmp_path / "log", ORIGIN).snapshot()
