"""The ledger as its users see it: append, read, prove, sign, export."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_samples import ORIGIN, sample

from cloister import verifier
from cloister.errors import Conflict, InvalidInput, LedgerUnavailable, NotFound
from cloister.ledger import Ledger, Settings, merkle
from cloister.ledger.tiles import TileStore, Tree, tile_name

Open = Callable[..., Ledger]


def fill(ledger: Ledger, count: int) -> None:
    start = ledger.size
    waiting = [ledger.submit(sample(start + number)) for number in range(count)]
    assert [future.result() for future in waiting] == list(range(start, start + count))


def test_an_append_is_durable_readable_and_then_signed(open_ledger: Open, tmp_path: Path) -> None:
    ledger = open_ledger()
    assert ledger.append(sample(0)) == 0
    assert ledger.append(sample(1)) == 1
    assert ledger.size == 2
    assert ledger.entry(1)["details"]["number"] == 1
    ledger.flush()
    assert ledger.signed_size == 2
    head = ledger.head()
    assert head.signed_note == (tmp_path / "log" / "checkpoint").read_text()
    report = verifier.verify_log(tmp_path / "log", ledger.vkey)
    assert (report.problems, report.entries, report.signed, report.unsigned) == ([], 2, 2, 0)
    with pytest.raises(NotFound):
        ledger.entry(2)


def test_soon_after_the_last_append_everything_is_signed(open_ledger: Open) -> None:
    ledger = open_ledger(settings=Settings(sign_after_s=0.01))
    fill(ledger, 300)
    with ledger._state.changed:
        assert ledger._state.changed.wait_for(lambda: ledger.signed_size == 300, timeout=60)


def test_appends_from_many_threads_get_each_index_once(open_ledger: Open, tmp_path: Path) -> None:
    ledger = open_ledger(settings=Settings(journal_bytes=1 << 15, sign_after_s=0.005))
    got: list[tuple[int, int]] = []

    def work(thread: int) -> None:
        for number in range(40):
            name = thread * 1000 + number
            got.append((ledger.append(sample(name)), name))

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(index for index, _ in got) == list(range(1000))
    names = dict(got)
    read = [entry["details"]["number"] for entry in ledger.entries(0, 2000)]
    assert read == [names[index] for index in range(1000)]
    ledger.flush()
    assert verifier.verify_log(tmp_path / "log", ledger.vkey).problems == []


def test_futures_serve_asyncio(open_ledger: Open) -> None:
    ledger = open_ledger()

    async def work() -> list[int]:
        return await asyncio.gather(*(asyncio.wrap_future(ledger.submit(sample(n))) for n in range(50)))

    assert asyncio.run(work()) == list(range(50))


def test_a_second_writer_is_refused(open_ledger: Open) -> None:
    open_ledger()
    with pytest.raises(Conflict, match="writes this ledger"):
        open_ledger()


def test_a_closed_ledger_refuses(open_ledger: Open) -> None:
    ledger = open_ledger()
    ledger.close()
    with pytest.raises(LedgerUnavailable):
        ledger.append(sample(0))
    with pytest.raises(LedgerUnavailable):
        ledger.submit(sample(0), urgent=True).result(timeout=60)
    with pytest.raises(LedgerUnavailable):
        ledger.recover()
    ledger.close()


def test_another_origin_or_key_is_refused(open_ledger: Open) -> None:
    ledger = open_ledger()
    ledger.append(sample(0))
    ledger.close()
    with pytest.raises(Conflict, match=r"cloister\.test/control"):
        open_ledger(origin="other.test/log")
    with pytest.raises(Conflict, match="another key"):
        open_ledger(signer=Ed25519PrivateKey.generate())
    with pytest.raises(InvalidInput):
        open_ledger(origin="with space")


def test_entries_made_without_a_signer_are_durable_and_signed_later(
    open_ledger: Open, signer: Ed25519PrivateKey, tmp_path: Path
) -> None:
    ledger = open_ledger(signer=None)
    with pytest.raises(NotFound):
        _ = ledger.vkey
    fill(ledger, 300)
    ledger.flush()
    unsigned = ledger.head()
    assert (unsigned.size, unsigned.signed_note, ledger.signed_size) == (300, None, 0)
    with pytest.raises(Conflict, match="signed"):
        ledger.inclusion_proof(0, 300)
    ledger.close()
    ledger = open_ledger(signer=None)
    assert ledger.size == 300
    ledger.append(sample(300))
    vkey = str(verifier_key(signer))
    report = verifier.verify_log(tmp_path / "log", vkey)
    assert (report.problems, report.signed, report.unsigned) == ([], 0, 301)
    ledger.attach_signer(signer)
    ledger.flush()
    assert ledger.signed_size == 301
    assert ledger.root_at(300) == unsigned.root
    ledger.detach_signer()
    ledger.append(sample(301))
    ledger.flush()
    report = verifier.verify_log(tmp_path / "log", ledger.vkey)
    assert (report.problems, report.signed, report.unsigned) == ([], 301, 1)


def verifier_key(signer: Ed25519PrivateKey) -> object:
    from cloister.ledger.note import VerifierKey

    return VerifierKey.of(ORIGIN, signer)


def test_an_export_stands_on_its_own(open_ledger: Open, tmp_path: Path) -> None:
    ledger = open_ledger()
    fill(ledger, 700)
    ledger.flush()
    ledger.detach_signer()
    fill(ledger, 5)
    ledger.export(tmp_path / "copy")
    report = verifier.verify_log(tmp_path / "copy", (tmp_path / "copy" / "vkey").read_text())
    assert (report.problems, report.signed, report.unsigned) == ([], 700, 5)
    with pytest.raises(Conflict):
        ledger.export(tmp_path / "copy")
    fresh = open_ledger(root=tmp_path / "copy")
    assert fresh.size == 705
    assert list(fresh.raw_entries(0, 705)) == list(ledger.raw_entries(0, 705))


def test_a_log_in_use_verifies_at_any_moment(open_ledger: Open, tmp_path: Path) -> None:
    ledger = open_ledger(settings=Settings(journal_bytes=1 << 14, sign_after_s=0.002))
    stop = threading.Event()

    def work() -> None:
        number = 0
        while not stop.is_set() and number < 20_000:
            ledger.append(sample(number))
            number += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for turn in range(12):
            report = verifier.verify_log(tmp_path / "log", ledger.vkey)
            assert report.problems == []
            if turn % 4 == 3:
                ledger.export(tmp_path / f"copy{turn}")
                copy = verifier.verify_log(tmp_path / f"copy{turn}", ledger.vkey)
                assert copy.problems == []
                assert copy.entries >= report.signed
    finally:
        stop.set()
        thread.join()


def test_a_write_that_ends_while_it_is_looked_at_is_no_damage(
    open_ledger: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger(settings=Settings(sign_after_s=3600))
    fill(ledger, 3)
    ledger.append(sample(3))
    (journal,) = (tmp_path / "log" / "journal").glob("0*")
    whole = journal.read_bytes()
    end = len(whole.rstrip(b"\x00"))
    half = whole[: end - 20] + bytes([1] * 20) + whole[end:]
    judge = verifier._is_torn

    def ends_now(descriptor: int, at: int, stop: int) -> bool:
        with journal.open("r+b") as file:
            file.write(whole)
        return judge(descriptor, at, stop)

    def verified(data: bytes) -> list[str]:
        with journal.open("r+b") as file:
            file.write(data)
        return verifier.verify_log(tmp_path / "log", ledger.vkey).problems

    assert any("damaged at byte" in problem for problem in verified(half))
    monkeypatch.setattr(verifier, "_is_torn", ends_now)
    assert verified(half) == []
    verified(whole)  # the ledger is closed on what it wrote


def test_tile_names_are_those_of_the_specification() -> None:
    assert tile_name(1234067) == "x001/x234/067"
    assert tile_name(0) == "000"
    assert tile_name(5, 17) == "005.p/17"
    assert tile_name(1000, 255) == "x001/000.p/255"


def test_seventy_thousand_entries_make_the_files_of_the_specification(tmp_path: Path) -> None:
    """273 full and one partial (112) tile at level 0, one full and one partial (17) at 1, one of width 1 at 2."""
    entries = [str(number).encode() for number in range(70_000)]
    leaves = [merkle.leaf_hash(entry) for entry in entries]
    tree, _ = Tree(TileStore(tmp_path)).grow(entries, leaves)
    names = {str(path.relative_to(tmp_path / "tile")) for path in tmp_path.rglob("*") if path.is_file()}
    full = {f"{index:03d}" for index in range(273)}
    expected = {f"{kind}/{name}" for kind in ("0", "entries") for name in full}
    expected |= {"0/273.p/112", "entries/273.p/112", "1/000", "1/001.p/17", "2/000.p/1"}
    assert names == expected
    assert all((tmp_path / "tile" / "0" / name).stat().st_size == 8192 for name in full)
    node = Tree.load(TileStore(tmp_path), 70_000).node
    root = tree.root()
    for index in (0, 255, 256, 65_535, 65_536, 69_887, 69_888, 69_999):
        proof = merkle.inclusion_proof(node, index, 70_000)
        verifier.verify_inclusion(index, 70_000, leaves[index], proof, root)
    for old in (1, 255, 256, 257, 65_536, 65_537, 69_888, 70_000):
        steps = merkle.consistency_proof(node, old, 70_000)
        verifier.verify_consistency(old, 70_000, merkle.range_hash(node, 0, old), root, steps)


def test_partial_tiles_of_every_signed_size_stay_until_the_full_one_is_there(
    open_ledger: Open, tmp_path: Path
) -> None:
    ledger = open_ledger()
    for _ in range(3):
        fill(ledger, 100)
        ledger.flush()
        partials = sorted(path.name for path in (tmp_path / "log/tile/0").rglob("*.p/*"))
        if ledger.size < 256:
            assert len(partials) == ledger.size // 100
    ledger.close()  # the integrator tidies up after it has signed
    assert [path.name for path in (tmp_path / "log/tile/0").rglob("*.p/*")] == ["44"]
    assert (tmp_path / "log/tile/0/000").stat().st_size == 8192


@settings(max_examples=6, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=5), st.data())
def test_any_number_of_appends_reopened_reads_back_and_proves(counts: list[int], data: st.DataObject) -> None:
    signer = Ed25519PrivateKey.from_private_bytes(b"\x05" * 32)
    small = Settings(journal_bytes=1 << 14, emergency_bytes=1 << 12, sign_after_s=0.001)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        heads = []
        for count in counts:
            with Ledger.open(root, origin=ORIGIN, signer=signer, settings=small) as ledger:
                fill(ledger, count)
                if data.draw(st.booleans()):
                    ledger.flush()
            with Ledger.open(root, origin=ORIGIN, signer=None, settings=small) as ledger:
                heads.append(ledger.head())
        total = sum(counts)
        with Ledger.open(root, origin=ORIGIN, signer=signer, settings=small) as ledger:
            assert ledger.size == ledger.signed_size == total
            assert [entry["details"]["number"] for entry in ledger.entries(0, total)] == list(range(total))
            head = ledger.head()
            index = data.draw(st.integers(0, total - 1))
            leaf = merkle.leaf_hash(next(ledger.raw_entries(index, index + 1)))
            verifier.verify_inclusion(index, total, leaf, ledger.inclusion_proof(index, total), head.root)
            for old in heads:
                steps = ledger.consistency_proof(old.size, total)
                verifier.verify_consistency(old.size, total, old.root, head.root, steps)
                note = (old.signed_note or "").encode()
                assert verifier.verify_log(root, ledger.vkey, since=note).problems == []


def test_an_entry_is_kept_as_its_canonical_bytes(open_ledger: Open) -> None:
    ledger = open_ledger()
    ledger.append(sample(0))
    data = next(ledger.raw_entries(0, 1))
    assert data == sample(0).canonical()
    assert msgspec.json.decode(data) == ledger.entry(0)


def test_proofs_out_of_range_are_refused(open_ledger: Open) -> None:
    ledger = open_ledger()
    fill(ledger, 3)
    for call in (
        lambda: ledger.inclusion_proof(3, 3),
        lambda: ledger.inclusion_proof(-1, 3),
        lambda: ledger.inclusion_proof(0, 4),
        lambda: ledger.consistency_proof(3, 2),
        lambda: ledger.consistency_proof(3, 4),
    ):
        with pytest.raises(InvalidInput):
            call()
