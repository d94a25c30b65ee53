"""The authority through its socket: real programs, a real vault, a real ledger."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from tests.conftest import PASSPHRASE, Appliance

from cloister import embedded
from cloister.api import ClientRequest, DatasetImport, ImportConfig, LockRequest, MergeRequest, RunRequest
from cloister.appliance.seal import appliance_id
from cloister.client import Client
from cloister.demo.search import find_leaks
from cloister.errors import CloisterError, Conflict, Denied, Locked, NotFound, Tampered, Unauthenticated
from cloister.home import Home
from cloister.ledger import Ledger
from cloister.verifier import verify_log


def raw(appliance: Appliance) -> httpx.Client:
    transport = httpx.HTTPTransport(uds=str(appliance.home.authority_socket))
    return httpx.Client(transport=transport, base_url="http://authority", timeout=60)


def actions(appliance: Appliance) -> list[str]:
    entries = appliance.client.entries(0, 1000)
    return [f"{entry.action}:{entry.decision}" if entry.decision else entry.action for entry in entries]


def test_a_second_authority_refuses_the_home(appliance: Appliance) -> None:
    command = [sys.executable, "-m", "cloister.appliance", "--home", str(appliance.home.root)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert second.returncode == Conflict.exit_code
    assert "runs over this home already" in second.stderr
    assert appliance.client.status().initialised


def test_the_kernel_says_who_asks(appliance: Appliance) -> None:
    answer = appliance.client.whoami()
    assert answer.uid == os.getuid()
    with raw(appliance) as http:
        told = http.get("/v1/whoami", headers={"x-user": "somebody", "authorization": "Basic c29tZWJvZHk6"})
    assert told.json()["uid"] == os.getuid()


def test_sockets_and_folders_are_private(appliance: Appliance) -> None:
    home = appliance.home
    for path in (home.authority_socket, home.side_socket, home.launcher_socket):
        assert path.stat().st_mode & 0o077 == 0, path
    for path in (home.root, home.keys, home.objects, home.work, home.run, home.state.parent):
        assert path.stat().st_mode & 0o077 == 0, path
    assert home.state.stat().st_mode & 0o077 == 0


def test_locking_and_unlocking_are_entered_before_they_happen(appliance: Appliance) -> None:
    client = appliance.client
    client.lock(LockRequest())
    assert client.status().locked
    with pytest.raises(Locked):
        client.issue_client(ClientRequest(name="too-early"))
    with pytest.raises(Unauthenticated):
        client.unlock("not the passphrase")
    assert client.status().locked
    client.unlock(PASSPHRASE)
    assert not client.status().locked
    tail = [action for action in actions(appliance) if action.startswith("vault")][-5:]
    assert tail == [
        "vault.lock",
        "vault.unlock:attempt",
        "vault.unlock:refused",
        "vault.unlock:attempt",
        "vault.unlock:opened",
    ]


def test_a_second_init_is_refused(appliance: Appliance) -> None:
    with pytest.raises(Conflict):
        appliance.client.initialise("another passphrase")


def test_the_passphrase_is_in_no_file_and_no_argument(appliance: Appliance) -> None:
    needle = PASSPHRASE.encode()
    assert not find_leaks(PASSPHRASE, [appliance.home.root])
    pid = embedded.listener_pid(appliance.home.authority_socket)
    assert needle not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert needle not in Path(f"/proc/{pid}/environ").read_bytes()


def test_events_go_on_where_a_client_left_off_across_a_restart(appliance: Appliance) -> None:
    before = appliance.client.status().last_seq
    appliance.client.issue_client(ClientRequest(name="first"))
    appliance.restart_authority()
    appliance.client.issue_client(ClientRequest(name="second"))
    found = []
    for event in appliance.client.events(before):
        found.append(event)
        if event.kind == "client.issued" and event.data["name"] == "second":
            break
    assert [event.seq for event in found] == list(range(before + 1, before + 1 + len(found)))
    assert [event.data["name"] for event in found if event.kind == "client.issued"] == ["first", "second"]


def test_the_ledger_verifies_after_a_crash(appliance: Appliance, tmp_path: Path) -> None:
    entries = appliance.client.ledger().entries
    appliance.restart_authority()
    assert appliance.client.ledger().entries > entries
    appliance.client.flush_ledger()
    folder = appliance.home.control_ledger
    report = verify_log(folder, (folder / "vkey").read_text().strip())
    assert not report.problems
    assert report.entries >= entries


def test_an_api_key_is_shown_once_and_kept_as_a_hash(appliance: Appliance) -> None:
    issued = appliance.client.issue_client(ClientRequest(name="desk"))
    assert len(issued.api_key) > 40
    assert not find_leaks(issued.api_key, [appliance.home.root])
    with pytest.raises(Conflict):
        appliance.client.issue_client(ClientRequest(name="desk"))
    assert appliance.client.revoke_client("desk").revoked_at is not None
    again = appliance.client.revoke_client("desk")
    assert again.revoked_at is not None
    assert actions(appliance).count("client.revoke") == 1


def test_unknown_things_are_not_found(appliance: Appliance) -> None:
    client = appliance.client
    for call in (client.dataset, client.base, client.model, client.run, client.job, client.revoke_client):
        with pytest.raises(NotFound):
            call("no-such-thing")
    with pytest.raises(NotFound):
        client.start_run(RunRequest(name="r", dataset="no-such", base="no-such"))
    with pytest.raises(NotFound):
        client.merge(MergeRequest(name="m", run="no-such"))


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/runs", b"{", 422),
        ("/v1/runs", b'{"name": "a", "dataset": "b", "base": "c", "surprise": 1}', 422),
        ("/v1/runs", b'{"name": "../../etc", "dataset": "b", "base": "c"}', 422),
        ("/v1/clients", b'{"name": "' + b"a" * 200 + b'"}', 422),
        ("/v1/unlock", b'{"passphrase": ""}', 422),
        ("/v1/unlock", b"[" * 100_000, 400),
        ("/v1/datasets", b"x" * (2 << 20), 422),
        ("/v1/nothing", b"{}", 405),
    ],
)
def test_malformed_requests_get_a_problem_and_change_nothing(
    appliance: Appliance, path: str, body: bytes, status: int
) -> None:
    entries = appliance.client.ledger().entries
    with raw(appliance) as http:
        answer = http.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    found = [entry.action for entry in appliance.client.entries(entries)]
    assert [
        action for action in found if not action.startswith(("alert.", "gateway."))
    ] == []  # these come when they come


def test_descriptors_need_a_token_and_are_taken_once(appliance: Appliance) -> None:
    request = DatasetImport(name="waiting", config=ImportConfig(source_name="x.jsonl"))
    with raw(appliance) as http:
        headers = {"content-type": "application/json"}
        ticket = http.post("/v1/datasets", content=request.model_dump_json(), headers=headers).json()

    def deliver(token: str, roles: list[str]) -> dict[str, object]:
        with socket.socket(socket.AF_UNIX) as connection, open("/dev/null", "rb") as source:
            connection.connect(str(appliance.home.side_socket))
            message = json.dumps({"token": token, "roles": roles}).encode() + b"\n"
            socket.send_fds(connection, [message], [source.fileno()])
            answer: dict[str, object] = json.loads(connection.makefile("rb").readline())
            return answer

    assert deliver("wrong", ["source"])["code"] == Denied.code
    assert deliver(ticket["token"], ["source", "report"])["ok"] is False
    assert deliver(ticket["token"], ["source"])["ok"] is True
    assert deliver(ticket["token"], ["source"])["code"] == Denied.code
    with pytest.raises(CloisterError):
        appliance.client.finished_job(ticket["job"]["job_id"])


def test_status_tells_what_stopped(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    embedded.start(home, gateway=False)
    try:
        with Client(home.authority_socket) as client:
            launcher = embedded.listener_pid(home.launcher_socket)
            assert launcher is not None
            os.kill(launcher, 9)
            embedded.await_end(launcher)
            states = {process.name: process.state for process in client.status().processes}
            assert states == {"authority": "running", "launcher": "stopped", "gateway": "stopped"}
            assert embedded.start(home, gateway=False) == ["launcher"]
            assert not client.status().initialised
    finally:
        embedded.stop(home)


def test_an_authority_asked_to_end_enters_it_and_signs_all(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    embedded.start(home, gateway=False)
    try:
        with Client(home.authority_socket) as client:
            client.initialise(PASSPHRASE)
    finally:
        embedded.stop(home)
    folder = home.control_ledger
    vkey = (folder / "vkey").read_text().strip()
    report = verify_log(folder, vkey)
    assert not report.problems
    assert report.signed == report.entries
    with Ledger.open(folder, origin=report.origin, signer=None) as ledger:
        assert ledger.entry(report.entries - 1)["action"] == "authority.stop"


def test_a_number_of_a_gateway_that_died_names_no_other_process(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.make()
    home.gateway_file.write_text(json.dumps({"url": "http://127.0.0.1:1", "pid": os.getpid()}))
    assert embedded.gateway_pid(home) is None
    assert embedded.stop(home) == []


def test_what_is_no_reference_is_not_found(appliance: Appliance) -> None:
    for reference in ("", ".", ".."):
        with pytest.raises(NotFound):
            appliance.client.run(reference)


def test_an_identity_that_was_damaged_is_named(tmp_path: Path) -> None:
    path = tmp_path / "appliance.json"
    identity = appliance_id(path)
    assert appliance_id(path) == identity
    path.write_bytes(b"\xff" + path.read_bytes())
    with pytest.raises(Tampered, match=r"appliance\.json"):
        appliance_id(path)
