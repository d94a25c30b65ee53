"""Twelve attacks on a copied ledger, each found by the verifier as one file, and an untouched copy passes.

The attacker may write every file. Where the log's own key signs the lie, only a head that has left the machine,
or a witness's cosignature, shows it: those attacks come with what the auditor has kept.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloister import verifier
from cloister.ledger import Entry, Ledger, merkle
from cloister.ledger.note import VerifierKey, sign_head
from cloister.ledger.tiles import TileStore, Tree, pack

ORIGIN = "cloister.test/control"
SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(b"\x09" * 32)
VKEY = str(VerifierKey.of(ORIGIN, SIGNER))
OLD, SIZE = 300, 700


def entry(number: int, moment: str = "2026-01-01T00:00:00.000000Z") -> Entry:
    return Entry(moment, "uid:1000", "peercred", "run.start", details={"number": number})


def append(root: Path, numbers: range, origin: str = ORIGIN) -> None:
    with Ledger.open(root, origin=origin, signer=SIGNER) as ledger:
        for future in [ledger.submit(entry(number)) for number in numbers]:
            future.result()


@dataclass
class Case:
    """A copied ledger, and what the auditor keeps elsewhere."""

    root: Path
    kept: Path
    """The tree head of `OLD` entries, in a file of the auditor's."""
    newest: Path
    """The tree head of `SIZE` entries, likewise."""
    witness: str
    script: Path
    arguments: list[str] = field(default_factory=list)

    def run(self, *arguments: str) -> tuple[int, list[str]]:
        command = [sys.executable, "-I", str(self.script), "verify", str(self.root), "--key", VKEY, "--json"]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True)
        assert done.returncode in (0, 1), (done.stdout, done.stderr)
        report = json.loads(done.stdout)
        problems = [line for log in report["ledgers"] for line in log["problems"]]
        assert report["ok"] == (done.returncode == 0) == (not problems)
        return done.returncode, problems

    def entries(self) -> list[bytes]:
        store = TileStore(self.root)
        size = verifier.parse_tree_head(self.head().partition("\n\n")[0] + "\n").size
        return [
            one
            for index in range((size + 255) // 256)
            for one in store.entries(index, min(256, size - 256 * index))
        ]

    def head(self) -> str:
        return (self.root / "checkpoint").read_text()

    def rewrite(self, entries: list[bytes], *, sign: bool, key: Ed25519PrivateKey = SIGNER) -> None:
        """Put a whole other tree in place, as someone who can write every file would."""
        for name in ("tile", "journal"):
            shutil.rmtree(self.root / name, ignore_errors=True)
        tree, _ = Tree(TileStore(self.root)).grow(entries, [merkle.leaf_hash(one) for one in entries])
        if sign:
            note = sign_head(key, ORIGIN, tree.size, tree.root()).signed_note
            (self.root / "checkpoint").write_text(note or "")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A ledger that a witness has visited at 300 and at 700 entries."""
    folder = tmp_path_factory.mktemp("attacks")
    root, state = folder / "log", folder / "state"
    key = verifier.parse_vkey(VKEY)
    for first, last, name in ((0, OLD, "kept"), (OLD, SIZE, "newest")):
        append(root, range(first, last))
        with verifier.Witness(state, "witness.test/w") as witness:
            (visited,) = witness.visit(root, [key])
            assert visited.problems == []
            vkey = str(witness.key)
        shutil.copy(root / "checkpoint", folder / name)
        shutil.copytree(root / "cosigned", folder / f"cosigned-{name}")
    script = folder / "auditor" / "verifier.py"
    script.parent.mkdir()
    shutil.copy(verifier.__file__, script)
    return Case(root, folder / "kept", folder / "newest", vkey, script)


@pytest.fixture
def case(original: Case, tmp_path: Path) -> Case:
    shutil.copytree(original.root, tmp_path / "copy")
    return Case(tmp_path / "copy", original.kept, original.newest, original.witness, original.script)


def test_an_untouched_copy_passes(case: Case) -> None:
    assert case.run("--since", str(case.kept), "--witness", case.witness) == (0, [])


# --- found with the key alone --------------------------------------------------------------------------------


def edit(case: Case) -> str:
    bundle = case.root / "tile" / "entries" / "001"
    bundle.write_bytes(bundle.read_bytes().replace(b'"number":261}', b'"number":999}'))
    return "tile/entries/001"


def reorder(case: Case) -> str:
    entries = case.entries()
    entries[10], entries[11] = entries[11], entries[10]
    (case.root / "tile" / "entries" / "000").write_bytes(pack(entries[:256]))
    return "tile/entries/000"


def insert(case: Case) -> str:
    entries = case.entries()
    case.rewrite([*entries[:10], entry(5000).canonical(), *entries[10:]], sign=False)
    return ""


def truncate(case: Case) -> str:
    case.rewrite(case.entries()[:600], sign=False)
    return "missing"


def drop_a_tile(case: Case) -> str:
    (case.root / "tile" / "0" / "001").unlink()
    return "tile/0/001: missing"


def forge_a_partial_tile(case: Case) -> str:
    forged = case.root / "tile" / "0" / f"002.p/{SIZE - 512}"
    data = bytearray(forged.read_bytes())
    data[-32:] = merkle.leaf_hash(b"forged")
    forged.write_bytes(bytes(data))
    return f"tile/0/002.p/{SIZE - 512}: does not match the tree"


def swap_the_key(case: Case) -> str:
    case.rewrite(case.entries(), sign=True, key=OTHER)
    (case.root / "vkey").write_text(f"{VerifierKey.of(ORIGIN, OTHER)}\n")
    shutil.rmtree(case.root / "cosigned")
    return "not signed by"


def mix_two_logs(case: Case) -> str:
    """Tiles and bundles of another log of the same key, and of the same size, under this one's head."""
    other = case.root.parent / "other"
    append(other, range(9000, 9000 + SIZE))
    for name in ("tile/0/001", "tile/entries/001"):
        shutil.copy(other / name, case.root / name)
    return "tile/entries/001: does not match the tree"


def future_time(case: Case) -> str:
    """An entry that claims to be made next year, properly signed."""
    year = time.gmtime().tm_year + 1
    with Ledger.open(case.root, origin=ORIGIN, signer=SIGNER) as ledger:
        ledger.append(entry(1, f"{year}-06-01T00:00:00.000000Z"))
    return f"entry {SIZE} is dated in the future"


ALONE: list[Callable[[Case], str]] = [
    edit,
    reorder,
    insert,
    truncate,
    drop_a_tile,
    forge_a_partial_tile,
    swap_the_key,
    mix_two_logs,
    future_time,
]


@pytest.mark.parametrize("attack", ALONE, ids=lambda attack: attack.__name__)
def test_it_is_found_with_the_public_key_alone(case: Case, attack: Callable[[Case], str]) -> None:
    expected = attack(case)
    status, problems = case.run()
    assert status == 1
    assert any(expected in line for line in problems), problems


# --- found with a head kept elsewhere, or a witness --------------------------------------------------------------


def roll_back(case: Case) -> str:
    """The whole ledger as it was at 300 entries: sound in itself."""
    shutil.rmtree(case.root)
    append(case.root, range(OLD))
    return "rolled back"


def fork(case: Case) -> str:
    """Another past, signed with the right key."""
    entries = case.entries()
    entries[20] = entry(20, "2026-01-01T00:00:01.000000Z").canonical()
    shutil.rmtree(case.root / "cosigned")
    case.rewrite(entries, sign=True)
    return "forked"


def resigned_truncation(case: Case) -> str:
    shutil.rmtree(case.root / "cosigned")
    case.rewrite(case.entries()[:600], sign=True)
    return "rolled back"


HEADS: list[Callable[[Case], str]] = [roll_back, fork, resigned_truncation]


@pytest.mark.parametrize("attack", HEADS, ids=lambda attack: attack.__name__)
def test_it_is_found_with_a_head_that_had_left_and_with_nothing_less(
    case: Case, attack: Callable[[Case], str]
) -> None:
    expected = attack(case)
    assert case.run() == (0, []), "the log's own key has signed it"
    status, problems = case.run("--since", str(case.newest))
    assert status == 1
    assert any(expected in line for line in problems), problems
    # Nor can it show the cosignature of a witness.
    assert "no cosignature of witness.test/w" in "".join(case.run("--witness", case.witness)[1])


@pytest.mark.parametrize("attack", HEADS, ids=lambda attack: attack.__name__)
def test_a_witness_finds_it_on_its_next_visit_and_does_not_cosign(
    original: Case, case: Case, attack: Callable[[Case], str], tmp_path: Path
) -> None:
    state = tmp_path / "state"
    shutil.copytree(original.root.parent / "state", state)
    expected = attack(case)
    command = [
        sys.executable,
        "-I",
        str(case.script),
        "witness",
        str(case.root),
        "--state",
        str(state),
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    (result,) = json.loads(done.stdout)["ledgers"]
    assert done.returncode == 1
    assert result["time"] is None
    assert any(expected in line for line in result["problems"]), result
    assert not (case.root / "cosigned").exists()
    (evidence,) = (state / "evidence").iterdir()
    assert evidence.read_text() == case.head()


def test_a_replayed_cosignature_is_found(original: Case, case: Case) -> None:
    """The witness's old line under a new head, and its old note kept as if it were of this log."""
    folder = original.root.parent
    (name,) = [path.name for path in (folder / "cosigned-kept").iterdir()]
    line = (folder / "cosigned-kept" / name).read_text().splitlines()[-1]
    (case.root / "cosigned" / name).write_text(f"{case.head()}{line}\n")
    status, problems = case.run("--witness", case.witness)
    assert status == 1
    assert any("is not one of this tree head" in line for line in problems), problems
    # A real cosigned head above a past that was changed after it.
    shutil.copy(folder / "cosigned-newest" / name, case.root / "cosigned" / name)
    entries = case.entries()
    entries[20] = entry(21).canonical()
    case.rewrite(entries, sign=True)
    status, problems = case.run("--witness", case.witness)
    assert any("forked: it does not continue the cosigned tree head" in line for line in problems), problems


def test_a_cosignature_of_the_future_is_found(case: Case) -> None:
    """A witness whose clock, or honesty, is wrong."""
    key = Ed25519PrivateKey.from_private_bytes(b"\x21" * 32)
    name, public = "witness.test/late", key.public_key().public_bytes_raw()
    vkey = verifier._key(name, 4, public)
    body = case.head().partition("\n\n")[0] + "\n"
    for late, found in ((60, []), (86_400, ["dated in the future"])):
        moment = int(time.time()) + late
        signature = moment.to_bytes(8, "big") + key.sign(verifier._cosigned(body, moment))
        (case.root / "cosigned" / vkey.id.hex()).write_text(case.head() + verifier._line(vkey, signature))
        _, problems = case.run("--witness", str(vkey))
        assert all(word in "".join(problems) for word in found)
        assert bool(problems) == bool(found)


def test_the_attacks_are_twelve() -> None:
    named = {attack.__name__ for attack in (*ALONE, roll_back, fork)} | {"replay"}
    assert len(named) == 12
