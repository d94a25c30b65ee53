"""Searching, following and exporting through a running appliance."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.conftest import PASSPHRASE, Appliance, start_appliance

from cloister import embedded
from cloister.api import ClientRequest
from cloister.copies import carry_over, served_keys
from cloister.errors import InvalidInput, LedgerUnavailable, NotFound
from cloister.home import Home
from cloister.policy import load_settings
from cloister.verifier import read_keys, verify_folder


def wait_until(condition: Callable[[], object], patience_s: float = 60.0) -> None:
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


def cloister(appliance: Appliance, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CLOISTER_HOME": str(appliance.home.root)}
    command = [sys.executable, "-m", "cloister.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def test_a_search_says_who_did_what_to_what(appliance: Appliance) -> None:
    client = appliance.client
    issued = [client.issue_client(ClientRequest(name=f"desk-{number}")).client for number in range(3)]
    client.revoke_client("desk-1")
    found = client.search_ledger(object=issued[1].client_id)
    assert [entry.action for entry in found.entries] == ["client.issue", "client.revoke"]
    assert not found.more
    found = client.search_ledger(2, action="client.*")
    assert [entry.action for entry in found.entries] == ["client.issue", "client.revoke"]
    assert found.more
    older = client.search_ledger(2, action="client.*", before=found.entries[0].index)
    assert [entry.action for entry in older.entries] == ["client.issue", "client.issue"]
    assert client.search_ledger(actor="nobody").entries == []
    assert client.search_ledger(action="client.*", index=False).entries == [*older.entries, *found.entries]
    with pytest.raises(NotFound):
        client.search_ledger(ledger="gateway")  # none runs here
    with pytest.raises(InvalidInput):
        client.search_ledger(since="yesterday")


def test_the_ledger_is_served_as_tiles_and_copied_from_them(appliance: Appliance, tmp_path: Path) -> None:
    client = appliance.client
    for number in range(300):  # more than a tile
        client.issue_client(ClientRequest(name=f"tile-{number}"))
    client.flush_ledger()
    size = client.ledger().signed
    assert size > 256
    assert len(client.tile("control", "0/000.p/255")) == 32 * 255
    assert len(client.tile("control", "0/000")) == 32 * 256
    for beyond in ("0/009", "0/001.p/255", "entries/009", "2/000", "../vkey", "entries/%2e%2e/001"):
        with pytest.raises((NotFound, InvalidInput)):
            client.tile("control", beyond)
    with pytest.raises(NotFound):
        client.log_state("gateway")  # none runs here
    first = carry_over(client, tmp_path)["control"]
    assert first.before == 0 and first.size >= size  # alerts are entries, too
    assert carry_over(client, tmp_path)["control"].before == first.size
    assert all(report.ok for report in verify_folder(tmp_path, read_keys(served_keys(client))).values())


def test_the_command_finds_prints_and_pages(appliance: Appliance) -> None:
    for name in ("front", "front-2"):
        appliance.client.issue_client(ClientRequest(name=name))
    whole = json.loads(cloister(appliance, "audit", "search", "--action", "client.issue", "--json").stdout)
    newest = whole["entries"][-1]
    assert newest["details"]["name"] == "front-2"
    text = cloister(appliance, "audit", "search", "--since", "1h", "--limit", "1", "--action", "client.issue")
    assert newest["objects"][0] in text.stdout
    assert "--before" in text.stderr
    assert "No entry of" in cloister(appliance, "audit", "search", "--until", "2020-01-01").stdout
    bad = cloister(appliance, "audit", "search", "--since", "next week")
    assert bad.returncode == 2
    assert "--since" in bad.stderr
    appliance.client.issue_client(ClientRequest(name="newest"))
    assert len(cloister(appliance, "audit", "tail", "-n", "3").stdout.splitlines()) == 3
    lines = cloister(appliance, "audit", "tail", "-n", "50").stdout.splitlines()  # alerts are entries, too
    assert "client.issue" in [line.split("  ")[3] for line in lines]


def test_tail_follows_across_a_restart_of_the_authority(appliance: Appliance) -> None:
    environment = {**os.environ, "CLOISTER_HOME": str(appliance.home.root)}
    command = [sys.executable, "-m", "cloister.cli.main", "audit", "tail", "-f", "-n", "1", "--json"]
    lines: list[dict[str, object]] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        stdout = process.stdout
        reader = threading.Thread(target=lambda: lines.extend(map(json.loads, stdout)), daemon=True)
        reader.start()
        wait_until(lambda: lines)
        appliance.client.issue_client(ClientRequest(name="live"))
        wait_until(lambda: any(line["action"] == "client.issue" for line in lines[1:]))
        appliance.restart_authority()
        appliance.client.issue_client(ClientRequest(name="live-again"))
        wait_until(lambda: sum(line["action"] == "client.issue" for line in lines[1:]) == 2)
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0
        reader.join(60)
    numbers = [line["index"] for line in lines]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))  # type: ignore[call-overload]


def test_an_index_that_is_spoiled_or_removed_changes_no_answer(appliance: Appliance) -> None:
    client = appliance.client
    for number in range(300):
        client.issue_client(ClientRequest(name=f"many-{number}"))
    before = client.search_ledger(5, action="client.issue", index=False).entries
    index = appliance.home.ledger_index / "control.db"
    wait_until(index.exists)
    for spoil in (b"", b"damaged", None):
        pid = embedded.listener_pid(appliance.home.authority_socket)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        embedded.await_end(pid)
        if spoil is None:
            index.unlink()
        else:
            index.write_bytes(spoil)
        embedded.start(appliance.home, gateway=False)
        client.unlock(PASSPHRASE)
        answer = client.search_ledger(5, action="client.issue")
        assert answer.entries == before
        wait_until(lambda: client.search_ledger(5, action="client.issue").indexed)


# --- export -------------------------------------------------------------------------------------------------


@pytest.fixture
def exporting() -> Iterator[Callable[[str], Appliance]]:
    """An appliance with settings of its own, in a short path."""
    root = Path(tempfile.mkdtemp(prefix="ax"))
    started: list[Appliance] = []

    def start(settings: str) -> Appliance:
        (root / "home").mkdir(mode=0o700)
        (root / "home" / "appliance.yaml").write_text(settings)
        started.append(start_appliance(root / "home", gateway=False))
        return started[0]

    yield start
    for appliance in started:
        appliance.client.close()
    embedded.stop(Home(root / "home"))
    subprocess.run(["rm", "-rf", str(root)], check=True)


def test_a_required_sink_that_is_dead_stops_new_work_until_it_is_back(
    exporting: Callable[[str], Appliance], tmp_path: Path
) -> None:
    target = tmp_path / "medium" / "audit.jsonl"
    appliance = exporting(
        "ledger:\n  sinks:\n"
        f"    - {{name: medium, to: 'file://{target}', required: true, grace_s: 0, logs: [control]}}\n"
    )
    client = appliance.client
    wait_until(lambda: client.status().sinks[0].problem == "No such file or directory")
    status = client.status()
    assert any("medium" in line and "NOTHING NEW STARTS" in line for line in status.warnings)
    from tests.conftest import import_rows

    with pytest.raises(LedgerUnavailable, match="medium"):
        import_rows(client, "claims", [{"input": "a", "output": "b"}])
    client.revoke_client(client.issue_client(ClientRequest(name="desk")).client.client_id)  # takes away
    target.parent.mkdir()
    wait_until(lambda: client.status().sinks[0].down_s is None)
    wait_until(lambda: client.status().sinks[0].behind == 0)
    import_rows(
        client,
        "claims",
        [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}],
    )
    wait_until(lambda: client.status().sinks[0].sent == client.status().ledger.entries)
    events = [json.loads(line) for line in target.read_bytes().splitlines()]
    exported = [event["metadata"]["sequence"] for event in events if event["class_uid"]]
    assert exported == list(range(len(exported)))
    actions = [entry.action for entry in client.entries(0, len(exported))]
    assert [e["metadata"]["event_code"] for e in events if e["class_uid"]] == actions


def test_a_head_that_a_sink_took_has_left_the_machine(
    exporting: Callable[[str], Appliance], tmp_path: Path
) -> None:
    target = tmp_path / "mounted.jsonl"
    appliance = exporting(
        "ledger:\n  sinks:\n"
        f"    - {{name: share, to: 'file://{target}', leaves_machine: true, head_every_s: 1}}\n"
    )
    client = appliance.client
    assert any("UNWITNESSED" in line for line in client.status().warnings)
    wait_until(lambda: client.ledger().witnessed)
    assert not any("UNWITNESSED" in line for line in client.status().warnings)
    (entry,) = client.search_ledger(action="ledger.left").entries
    heads = [json.loads(line) for line in target.read_bytes().splitlines() if b'"class_uid":0' in line]
    assert entry.details["sizes"]["control"] in {head["unmapped"]["size"] for head in heads}


def test_settings_of_sinks_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "appliance.yaml"
    for bad in (
        "{name: a, to: 'http://x:1'}",
        "{name: a, to: 'tcp://'}",
        "{name: a, to: 'file://relative/path'}",
        "{name: A b, to: 'tcp://x:1'}",
        "{name: a, to: 'tcp://x:1', cert: c.pem}",
        "{name: a, to: 'tcp://x:1', ca: c.pem}",
        "{name: a, to: 'tcp://x:99999'}",
        "{name: a, to: 'tls://user@x:1'}",
        "{name: a, to: 'tcp://x:1', unheard: 1}",
        "{name: a, to: 'tcp://x:1'}, {name: a, to: 'tcp://y:1'}",
    ):
        path.write_text(f"ledger: {{sinks: [{bad}]}}\n")
        with pytest.raises(InvalidInput) as raised:
            load_settings(path)
        assert "ledger" in raised.value.message
    path.write_text(
        "ledger: {sinks: [{name: a, to: 'tls://[::1]'}, {name: b, to: 'unix:///dev/log'}, "
        "{name: c, to: 'udp://siem.example:1514', leaves_machine: false}]}\n"
    )
    tls, unix, udp = load_settings(path).ledger.sinks
    assert tls.host_port == ("::1", 6514)
    assert [sink.counts_as_leaving for sink in (tls, unix, udp)] == [True, False, False]
    assert unix.path == "/dev/log"
