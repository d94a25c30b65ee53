"""`cloister approval` as approvers use it: looking, signing through a real agent or elsewhere, refusing, verifying."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from tests.appliance.role_accounts import as_account, made_accounts, needs_root, shared_appliance
from tests.conftest import PASSPHRASE, Appliance, import_rows

from cloister import embedded
from cloister.cli.main import NOUNS, main
from cloister.client import Client
from cloister.policy.cedar import PolicySet, default_policies

pytestmark = needs_root

ROWS: list[dict[str, object]] = [
    {"messages": [{"role": "user", "content": f"q {n}"}, {"role": "assistant", "content": f"a {n}"}]}
    for n in range(12)
]
Shell = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def people() -> Iterator[dict[str, str]]:
    with made_accounts() as accounts:
        yield accounts


@pytest.fixture(scope="module")
def agent(people: dict[str, str]) -> Iterator[Path]:
    """An SSH agent of the approver's with a key that lies nowhere else, as a forwarded one looks."""
    folder = Path(tempfile.mkdtemp(prefix="ag"))
    folder.chmod(0o777)

    def start() -> Any:
        key = folder / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key)], check=True)
        told = subprocess.run(
            ["ssh-agent", "-s", "-a", str(folder / "agent")], check=True, capture_output=True
        )
        env = {**os.environ, "SSH_AUTH_SOCK": str(folder / "agent")}
        subprocess.run(["ssh-add", "-q", str(key)], check=True, env=env, stderr=subprocess.DEVNULL)
        key.unlink()
        return int(told.stdout.decode().split("SSH_AGENT_PID=")[1].split(";")[0])

    pid = as_account(people["approver"], start)
    (folder / "allowed").write_text(f"{people['approver']} {(folder / 'key.pub').read_text()}")
    yield folder
    os.kill(pid, 15)
    embedded.await_end(pid)  # an account that a process runs under is not taken away
    shutil.rmtree(folder, ignore_errors=True)  # the agent takes its socket away itself


@pytest.fixture(scope="module")
def shared(people: dict[str, str], agent: Path) -> Iterator[Appliance]:
    with shared_appliance(approvals={"allowed_signers": str(agent / "allowed")}) as appliance:
        path = appliance.home.authority_socket
        as_account(people["admin"], lambda: Client(path).initialise(PASSPHRASE))
        yield appliance


@pytest.fixture
def shell(shared: Appliance, people: dict[str, str], agent: Path) -> Shell:
    """A command of a person's: exit code, standard output, standard error."""
    for noun in NOUNS:  # loaded here: an interpreter in a home folder is out of those people's reach
        importlib.import_module(f"cloister.cli.{noun}")

    def run(person: str, *words: str, typed: str = "", env: dict[str, str] | None = None) -> Any:
        def inside() -> Any:
            os.environ.pop("SSH_AUTH_SOCK", None)
            os.environ.update({"CLOISTER_HOME": str(shared.home.root), **(env or {})})
            said, wrong, code = io.StringIO(), io.StringIO(), 0
            terminal = io.StringIO(typed)
            terminal.isatty = lambda: bool(typed)  # type: ignore[method-assign]
            with (
                contextlib.redirect_stdout(said),
                contextlib.redirect_stderr(wrong),
                patch.object(sys, "argv", ["cloister", *words]),
                patch.object(sys, "stdin", terminal),
            ):
                try:
                    main()
                except SystemExit as end:
                    code = end.code if isinstance(end.code, int) else 0
            return [code, said.getvalue(), wrong.getvalue()]

        return tuple(as_account(people[person], inside))

    return run


def asked_for(shell: Shell, shared: Appliance, people: dict[str, str], name: str) -> str:
    """A shred that somebody has to approve."""

    def bring() -> None:
        with Client(shared.home.authority_socket) as client:
            import_rows(client, name, ROWS, holdout=0.0)

    as_account(people["steward"], bring)
    code, _, wrong = shell("steward", "dataset", "shred", name, "--yes", name)
    assert code == 13, wrong
    assert "cloister approval give" in wrong
    return wrong.split("error: ")[1].split(":")[0]


def test_signed_through_the_agent(
    shell: Shell, shared: Appliance, people: dict[str, str], agent: Path
) -> None:
    approval = asked_for(shell, shared, people, "first")
    code, said, _ = shell("approver", "approval", "list")
    assert code == 0 and approval in said and "shred.start" in said
    code, said, _ = shell("approver", "approval", "show", approval)
    assert "destroys dataset first" in said and "needs      the approver's signature" in said
    forwarded = {"SSH_AUTH_SOCK": str(agent / "agent")}
    code, _, wrong = shell(
        "approver", "approval", "give", approval, "--sign", typed="second\n", env=forwarded
    )
    assert code == 2 and "nothing was approved" in wrong
    code, _, wrong = shell("approver", "approval", "give", approval, "--sign", typed="first\n")
    assert code == 2 and "forwards no SSH agent" in wrong
    code, _, wrong = shell("approver", "approval", "give", approval, "--sign", typed="first\n", env=forwarded)
    assert code == 0 and "signed with ED25519 SHA256:" in wrong
    code, _, wrong = shell("auditor", "approval", "verify", approval)
    assert code == 0 and "a good signature" in wrong
    code, _, wrong = shell("steward", "dataset", "shred", "first", "--yes", "first")
    assert code == 0, wrong
    theirs = pwd.getpwnam(people["approver"]).pw_uid
    left = []
    for path in Path(tempfile.gettempdir()).glob("cloister-sign-*"):
        with contextlib.suppress(FileNotFoundError):  # another's, just taken away
            left += [path] if path.stat().st_uid == theirs else []
    assert not left


def test_a_policy_change_is_signed_with_its_diff_shown(shell: Shell, agent: Path) -> None:
    folder = agent / "policies"
    shutil.copytree(default_policies(), folder)
    (folder / "more.cedar").write_text(
        '@id("more")\npermit (principal in Role::"admin", action == Action::"run.list", resource);\n'
    )
    code, _, wrong = shell("admin", "policy", "propose", str(folder))
    assert code == 13, wrong
    approval = wrong.split("error: ")[1].split(":")[0]
    words = ["approval", "give", approval, "--sign"]
    _, said, wrong = shell("approver", *words, typed="something else\n")
    assert "asked by: " in said and '+@id("more")' in said
    assert "Type policies to approve" in wrong and "Type" not in said
    for more in ([], ["--sign"]):  # for a program: what a person sees goes beside it
        _, said, wrong = shell("approver", *words[:3], "--json", *more, typed="something else\n")
        assert json.loads(said)["error"]["code"] == "invalid-input"
        assert '+@id("more")' in wrong and "Type policies to approve" in wrong


def test_what_is_signed_is_the_document_whatever_the_locale(tmp_path: Path) -> None:
    """Its reason may be in any language; a server's locale may know none."""
    key, document = tmp_path / "key", "cloister-approval\nreason für Zoë\n"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    code = (
        "import sys; from pathlib import Path; from types import SimpleNamespace; from cloister.cli import approval\n"
        "approval = approval._sign(SimpleNamespace(document=sys.stdin.buffer.read().decode()), Path(sys.argv[1]))\n"
        "print(approval, end='')"
    )
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command, sent = [sys.executable, "-c", code, str(key)], document.encode()
    signed = subprocess.run(
        command, input=sent, env={**os.environ, **locale}, capture_output=True, check=True
    )
    (tmp_path / "signature").write_bytes(signed.stdout)
    check = [
        "ssh-keygen",
        "-Y",
        "check-novalidate",
        "-n",
        "cloister-approval",
        "-s",
        str(tmp_path / "signature"),
    ]
    subprocess.run(check, input=sent, check=True, capture_output=True)


def test_signed_elsewhere(shell: Shell, shared: Appliance, people: dict[str, str], agent: Path) -> None:
    approval = asked_for(shell, shared, people, "other")
    code, document, _ = shell("approver", "approval", "export", approval)
    assert code == 0 and document.startswith("Cloister approval, version 1\n")
    carried = agent / "carried.txt"
    carried.write_text(document)
    subprocess.run(
        ["ssh-keygen", "-Y", "sign", "-n", "cloister-approval", "-f", str(agent / "key.pub"), str(carried)],
        check=True,
        env={**os.environ, "SSH_AUTH_SOCK": str(agent / "agent")},
        capture_output=True,
    )
    signature = Path(f"{carried}.sig")
    signature.chmod(0o644)
    digest = document.split("digest: sha256 ")[1].split("\n")[0]
    words = ["approval", "give", approval, "--signature", str(signature)]
    code, _, wrong = shell("approver", *words)
    assert code == 2 and "--digest" in wrong
    code, _, wrong = shell("approver", *words, "--digest", digest, "--sign")
    assert code == 2 and "either" in wrong
    code, _, wrong = shell(
        "approver", "approval", "give", approval, "--signature", str(carried), "--digest", digest
    )
    assert code == 2 and "no armored SSH signature" in wrong
    code, said, wrong = shell("approver", *words, "--digest", digest, "--json")
    assert code == 0 and '"state": "approved"' in said, wrong


def test_refused_and_withdrawn(shell: Shell, shared: Appliance, people: dict[str, str]) -> None:
    approval = asked_for(shell, shared, people, "kept")
    code, _, _ = shell("approver", "approval", "refuse", approval)
    assert code == 2
    code, _, wrong = shell("approver", "approval", "refuse", approval, "--reason", "not before the audit")
    assert code == 0 and "refused" in wrong
    code, said, _ = shell("steward", "approval", "show", approval)
    assert "not before the audit" in said and said.startswith("REFUSED")
    second = asked_for(shell, shared, people, "kept2")
    assert shell("approver", "approval", "withdraw", second)[0] == 6
    assert shell("steward", "approval", "withdraw", second)[0] == 0
    assert shell("steward", "approval", "show", "ap-none")[0] == 3
    code, said, _ = shell("steward", "approval", "list")
    assert approval not in said
    assert approval in shell("steward", "approval", "list", "--all")[1]


def test_the_next_shift_is_told_and_whoever_reads_no_ledger_what_waits(
    shell: Shell, shared: Appliance, people: dict[str, str]
) -> None:
    approval = asked_for(shell, shared, people, "shift")
    code, said, wrong = shell("operator", "since", "1h")
    assert code == 0, wrong
    assert f"approval {approval} waits" in said and "approval.request" in said
    code, said, wrong = shell("trainer", "since", "1h")
    assert code == 0, wrong
    assert f"approval {approval} waits" in said and "approval.request" not in said
    assert "in the ledger" in wrong and "The role admin or approver or operator or auditor may." in wrong
    assert shell("none", "since", "1h")[0] == 6


def test_explain_names_the_demand(shell: Shell, shared: Appliance, people: dict[str, str]) -> None:
    asked_for(shell, shared, people, "why")
    code, said, _ = shell("steward", "policy", "explain", "shred.start", "why", "--on", "Dataset")
    assert code == 0 and said.startswith("ALLOW with a signed approval  shred.start on the Dataset why")
    code, said, _ = shell("trainer", "policy", "explain", "dataset.import")
    assert said.startswith("DENY") and "steward" in said


def test_explain_of_another_account(shell: Shell, shared: Appliance, people: dict[str, str]) -> None:
    """What somebody else gets, and which policy, in its own words, stands in the way."""
    asked_for(shell, shared, people, "whose")
    asked = ("policy", "explain", "shred.start", "whose", "--on", "Dataset", "--as")
    code, said, _ = shell("auditor", *asked, people["steward"])
    assert code == 0 and said.startswith("ALLOW with a signed approval  shred.start on the Dataset whose")
    assert f"account   {people['steward']}: steward" in said and "forbids" not in said
    code, said, _ = shell("steward", *asked, people["trainer"])
    assert said.startswith("DENY") and f"account   {people['trainer']}: trainer" in said
    assert "may       steward" in said and "forbids   auditor-changes-nothing" not in said
    reveal = ("policy", "explain", "dataset.reveal", "whose", "--as", people["trainer"])
    said = shell("steward", *reveal)[1]
    assert "  it has    classification confidential\n" in said, "what the condition is about"
    assert (
        "permits   trainer-sees-rows-of-public-and-internal-data, in roles.cedar, where this holds:" in said
    )
    assert '["public", "internal"].contains(resource.classification)' in said
    code, said, _ = shell("steward", "policy", "explain", "dataset.import", "--as", people["operator"])
    assert said.startswith("DENY") and "decided   no policy permits it" in said and "forbids" not in said
    code, said, _ = shell("steward", *asked, people["auditor"])
    source = PolicySet.load(default_policies()).source("auditor-changes-nothing")
    assert code == 0 and said.startswith("DENY") and source is not None and 'Action::"ledger.sign"' in source
    told = said.split("  forbids   auditor-changes-nothing, in separation.cedar:\n")[1].split("  forbids  ")[
        0
    ]
    assert told.splitlines() == [f"    {line}".rstrip() for line in source.splitlines()]
    export = ("policy", "explain", "model.export", "--form", "plain", "--as", people["operator"])
    said = shell("steward", *export)[1]
    assert (
        said.startswith("DENY") and 'when { resource.classification == "restricted" && context.form' in said
    )
    code, said, _ = shell("steward", *asked, people["auditor"], "--json")
    rule, approval = json.loads(said)["forbids"]
    assert approval["policy_id"] == "shredding-is-approved" and "forbid (" in approval["source"]
    assert rule == {"policy_id": "auditor-changes-nothing", "file": "separation.cedar", "source": source}
    code, _, wrong = shell("steward", *asked, "nobody-of-that-name")
    assert code == 3 and "nobody-of-that-name" in wrong
