"""The verifier alone: other people's proofs and signatures, its parsers, and that it stands by itself."""

from __future__ import annotations

import ast
import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister import verifier
from cloister.ledger import merkle
from cloister.ledger.note import NoteError, VerifierKey, check_ed25519, check_signature, sign_head
from cloister.verifier import VerificationError

SHARED = Path(os.environ.get("CLOISTER_SHARED", Path(__file__).parents[3] / "shared"))


def vectors(name: str) -> Any:
    path = SHARED / "vectors" / name
    if not path.exists():
        pytest.skip(f"no test vectors at {path}")
    return json.loads(path.read_text())


def raw(text: str | None) -> bytes:
    return base64.b64decode(text or "")


def accepts(check: Any, *arguments: Any) -> bool:
    try:
        check(*arguments)
    except VerificationError:
        return False
    return True


def test_merkle_proofs_come_out_as_the_vectors_say() -> None:
    cases = vectors("merkle_proofs.json")
    wrong = []
    for case in cases["inclusion"]:
        proof = [raw(step) for step in case["proof"] or ()]
        arguments = (case["leafIdx"], case["treeSize"], raw(case["leafHash"]), proof, raw(case["root"]))
        if accepts(verifier.verify_inclusion, *arguments) == case["wantErr"]:
            wrong.append(case["name"])
    for case in cases["consistency"]:
        proof = [raw(step) for step in case["proof"] or ()]
        arguments = (case["size1"], case["size2"], raw(case["root1"]), raw(case["root2"]), proof)
        if accepts(verifier.verify_consistency, *arguments) == case["wantErr"]:
            wrong.append(case["name"])
    assert len(cases["inclusion"]) + len(cases["consistency"]) == 196
    assert not wrong


def test_our_own_proofs_equal_the_valid_vectors() -> None:
    """The vectors' trees are over the reference leaves; a valid inclusion proof there must be ours, step by step."""
    leaves = [
        bytes.fromhex(text)
        for text in (
            "",
            "00",
            "10",
            "2021",
            "3031",
            "40414243",
            "5051525354555657",
            bytes(range(0x60, 0x70)).hex(),
        )
    ]
    hashes = [merkle.leaf_hash(leaf) for leaf in leaves]
    compared = 0
    for case in vectors("merkle_proofs.json")["inclusion"]:
        index, size = case["leafIdx"], case["treeSize"]
        if case["wantErr"] or size > len(hashes) or raw(case["leafHash"]) != hashes[index]:
            continue
        assert merkle.inclusion_proof(node_of(hashes), index, size) == [
            raw(step) for step in case["proof"] or ()
        ]
        compared += 1
    for case in vectors("merkle_proofs.json")["consistency"]:
        old, new = case["size1"], case["size2"]
        roots = [merkle.range_hash(node_of(hashes), 0, size) for size in range(len(hashes) + 1)]
        if (
            case["wantErr"]
            or new > len(hashes)
            or [raw(case["root1"]), raw(case["root2"])] != [roots[old], roots[new]]
        ):
            continue
        assert merkle.consistency_proof(node_of(hashes), old, new) == [
            raw(step) for step in case["proof"] or ()
        ]
        compared += 1
    assert compared >= 5


def node_of(hashes: list[bytes]) -> merkle.Node:
    return lambda height, index: merkle.perfect_root(hashes[index << height : (index + 1) << height])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 700), st.data())
def test_proofs_of_any_tree_verify_and_changed_ones_do_not(size: int, data: st.DataObject) -> None:
    hashes = [merkle.leaf_hash(str(number).encode()) for number in range(size)]
    node = node_of(hashes)
    root = merkle.range_hash(node, 0, size)
    index = data.draw(st.integers(0, size - 1))
    proof = merkle.inclusion_proof(node, index, size)
    verifier.verify_inclusion(index, size, hashes[index], proof, root)
    old = data.draw(st.integers(1, size))
    old_root = merkle.range_hash(node, 0, old)
    steps = merkle.consistency_proof(node, old, size)
    verifier.verify_consistency(old, size, old_root, root, steps)
    peaks = merkle.Peaks()
    for value in hashes:
        peaks.push(value)
    assert peaks.root() == root
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        changed = [bytes([step[0] ^ 1]) + step[1:] if i == at else step for i, step in enumerate(proof)]
        for bad in (changed, proof[:-1], [*proof, proof[0]]):
            assert not accepts(verifier.verify_inclusion, index, size, hashes[index], bad, root)
    if steps:
        at = data.draw(st.integers(0, len(steps) - 1))
        changed = [bytes([step[0] ^ 1]) + step[1:] if i == at else step for i, step in enumerate(steps)]
        for bad in (changed, steps[:-1], [*steps, steps[0]]):
            assert not accepts(verifier.verify_consistency, old, size, old_root, root, bad)


def test_ed25519_vectors_through_the_path_that_notes_take() -> None:
    groups = vectors("ed25519_test.json")["testGroups"]
    counted = 0
    for group in groups:
        public = bytes.fromhex(group["publicKey"]["pk"])
        for case in group["tests"]:
            arguments = (public, bytes.fromhex(case["sig"]), bytes.fromhex(case["msg"]))
            good = case["result"] == "valid"
            assert accepts(verifier.verify_ed25519, *arguments) == good, case["tcId"]
            try:
                check_ed25519(*arguments)
                assert good, case["tcId"]
            except NoteError:
                assert not good, case["tcId"]
            counted += 1
    assert counted >= 150


KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
NAME = "cloister.test/log"
VKEY = str(VerifierKey.of(NAME, KEY))


def note(size: int = 3, root: bytes = b"\x01" * 32, name: str = NAME) -> bytes:
    signed = sign_head(KEY, name, size, root).signed_note
    assert signed is not None
    return signed.encode()


def test_a_tree_head_is_read_back() -> None:
    head = verifier.parse_tree_head(verifier.verify_note(note(), verifier.parse_vkey(VKEY)))
    assert (head.origin, head.size, head.root) == (NAME, 3, b"\x01" * 32)


def test_signatures_of_others_are_ignored_and_ours_is_required() -> None:
    key = verifier.parse_vkey(VKEY)
    other = Ed25519PrivateKey.from_private_bytes(b"\x08" * 32)
    foreign = sign_head(other, "witness.test/w", 3, b"\x01" * 32).signed_note or ""
    line = foreign.split("\n\n")[1].encode()
    assert verifier.verify_note(note() + line, key)
    text = note().partition(b"\n\n")[0]
    assert not accepts(verifier.verify_note, text + b"\n\n" + line, key)


def test_any_changed_byte_of_a_tree_head_is_found() -> None:
    key = verifier.parse_vkey(VKEY)
    good = note()
    for at in range(len(good)):
        for flip in (0x01, 0x80):
            bad = good[:at] + bytes([good[at] ^ flip]) + good[at + 1 :]
            assert not accepts(verifier.verify_note, bad, key), at
            with pytest.raises(NoteError):
                check_signature(bad.decode(errors="replace"), VerifierKey.parse(VKEY))


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "name",
        VKEY.replace("+", "-"),
        VKEY[:-4],
        "other" + VKEY,
        VKEY.replace("+", "+00", 1),
        "+".join([*VKEY.split("+", 2)[:2], base64.b64encode(b"\x04" + b"k" * 32).decode()]),
    ],
)
def test_a_malformed_verifier_key_is_refused(bad: str) -> None:
    assert not accepts(verifier.parse_vkey, bad)
    with pytest.raises(NoteError):
        VerifierKey.parse(bad)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\n",
        "a\n1\n",
        "a\n01\nAQ==\n",
        "a\n-1\n" + "A" * 43 + "=\n",
        "a\n1\nAQ==\n",
        "a\n1\n\nb\n",
        "\n1\nx\n",
    ],
)
def test_a_malformed_tree_head_is_refused(text: str) -> None:
    assert not accepts(verifier.parse_tree_head, text)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_only_ever_give_a_verification_error(data: bytes) -> None:
    key = verifier.parse_vkey(VKEY)
    accepts(verifier.verify_note, data, key)
    accepts(verifier.verify_note, note() + data, key)
    accepts(verifier.parse_vkey, data.decode("latin-1"))
    accepts(verifier.parse_tree_head, data.decode("latin-1"))


def test_it_imports_nothing_of_ours() -> None:
    tree = ast.parse(Path(verifier.__file__).read_text())
    names = set()
    for statement in ast.walk(tree):
        if isinstance(statement, ast.Import):
            names |= {alias.name.split(".")[0] for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            assert statement.level == 0
            names.add((statement.module or "").split(".")[0])
    assert names - set(sys.stdlib_module_names) == {"cryptography"}


def test_it_runs_as_one_file_on_a_copy(tmp_path: Path) -> None:
    from cloister.ledger import Entry, Ledger

    with Ledger.open(tmp_path / "log", origin=NAME, signer=KEY) as ledger:
        for number in range(300):
            ledger.submit(Entry("2026-01-01T00:00:00Z", "a", "b", "c", details={"n": number}))
    script = tmp_path / "auditor" / "check.py"
    script.parent.mkdir()
    shutil.copy(verifier.__file__, script)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", str(script), "verify", str(tmp_path / "log"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=script.parent)

    good = run("--key", VKEY, "--json")
    report = json.loads(good.stdout)
    (log,) = report["ledgers"]
    assert (good.returncode, report["ok"], log["entries"], log["signed"]) == (0, True, 300, 300)
    assert run("--key", str(tmp_path / "log" / "vkey")).returncode == 0
    other = str(VerifierKey.of(NAME, Ed25519PrivateKey.from_private_bytes(b"\x09" * 32)))
    assert run("--key", other).returncode == 1
    assert run("--key", "nonsense+1+2").returncode == 2
    bundle = tmp_path / "log" / "tile" / "entries" / "000"
    bundle.write_bytes(bundle.read_bytes().replace(b'"n":7}', b'"n":8}'))
    bad = run("--key", VKEY)
    assert bad.returncode == 1
    assert "tile/entries/000" in bad.stdout
