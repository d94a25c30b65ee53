"""Export to real receivers: what reaches them, in which order, and what happens when they are killed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from ledger_samples import ORIGIN, sample
from syslog_receivers import MESSAGE, DatagramReceiver, StreamReceiver, certificates

from cloister.errors import NotFound, Tampered
from cloister.ledger import Entry, Ledger, Settings
from cloister.ledger.ocsf import encode, entry_event, head_event
from cloister.ledger.shipping import Shipping
from cloister.ledger.sinks import JsonLines, Sink, SyslogDatagram, SyslogStream
from cloister.ledger.syslog import Header, octet_counted

Open = Callable[..., Ledger]
HEADER = Header("appliance.test")


def wait_until(condition: Callable[[], object], patience_s: float = 60.0) -> None:
    """Only a bound against hanging: no test asserts a time."""
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


@pytest.fixture
def ship(tmp_path: Path) -> Iterator[Callable[..., Shipping]]:
    started: list[Shipping] = []

    def ship_(ledger: Ledger, sink: Sink, name: str = "siem", resend_s: float = 60.0) -> Shipping:
        shipping = Shipping(
            name,
            sink,
            {ledger.origin: ledger.snapshot},
            tmp_path / "cursors" / f"{name}.json",
            resend_s=resend_s,
            head_every_s=0.05,
        )
        shipping.start()
        started.append(shipping)
        return shipping

    yield ship_
    for shipping in started:
        shipping.stop()


def fill(ledger: Ledger, count: int) -> None:
    first = ledger.size
    for future in [ledger.submit(sample(first + number)) for number in range(count)]:
        future.result()


def events_of(messages: list[bytes]) -> list[dict[str, object]]:
    found = []
    for message in list(messages):
        match = MESSAGE.fullmatch(message)
        assert match is not None, message[:200]
        found.append(json.loads(match[7]))
    return found


def indices(events: list[dict[str, object]]) -> list[int]:
    found = []
    for event in events:
        metadata = event["metadata"]
        assert isinstance(metadata, dict)
        if "sequence" in metadata:
            found.append(metadata["sequence"])
    return found


def complete(events: list[dict[str, object]], ledger: Ledger) -> bool:
    return set(indices(events)) == set(range(ledger.size))


def in_order(numbers: list[int]) -> None:
    """Duplicates are allowed: going on from an earlier place is; leaving one out is not."""
    reached = -1
    for number in numbers:
        assert number <= reached + 1, f"{number} came when {reached} was the last"
        reached = max(reached, number)
    restarts = [(a, b) for a, b in pairwise(numbers) if b != a + 1]
    assert all(b <= a for a, b in restarts)


def same_bytes(events: list[dict[str, object]], ledger: Ledger) -> None:
    """An auditor can compute each leaf from what was exported."""
    entries = list(ledger.raw_entries(0, ledger.size))
    for event in events:
        metadata, raw = event["metadata"], event.get("raw_data")
        assert isinstance(metadata, dict)
        if "sequence" in metadata:
            assert isinstance(raw, str)
            assert raw.encode() == entries[metadata["sequence"]]


# --- formats ---------------------------------------------------------------------------------------------


REQUIRED = {
    "activity_id", "category_uid", "class_uid", "metadata", "severity_id", "time", "type_uid"
}  # fmt: skip
OF_CLASS = {
    3002: {"user", "service"},
    3004: {"entity"},
    6002: {"app"},
    6003: {"actor", "api", "src_endpoint"},
    0: set(),
}
"""What schema.ocsf.io requires of an event of each class, beside the base event."""


def made(action: str, **more: object) -> Entry:
    values: dict[str, object] = {
        "time": "2026-11-21T11:00:00.123456+00:00",
        "actor": "alice",
        "identified_by": "SO_PEERCRED uid=1000",
        "action": action,
    }
    return Entry(**(values | more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("entry", "type_uid", "status"),
    [
        (made("vault.unlock", decision="attempt"), 300201, 0),
        (made("vault.unlock", decision="refused", reason="wrong passphrase"), 300201, 2),
        (made("vault.unlock", decision="opened"), 300201, 1),
        (made("vault.lock"), 300202, 1),
        (made("client.issue", objects=("cl-000000000000",)), 300401, 1),
        (made("client.revoke", objects=("cl-000000000000",)), 300409, 1),
        (made("authority.start", actor="cloisterd", identified_by="self"), 600203, 1),
        (made("gateway.stop", actor="gateway", identified_by="process"), 600204, 1),
        (made("dataset.import", details={"name": "claims"}), 600301, 1),
        (made("audit.reveal", objects=("dp-000000000000",)), 600302, 1),
        (made("job.resume", objects=("jb-000000000000",)), 600303, 1),
        (made("job.failed", reason="invalid-input"), 600399, 2),
        (made("deployment.stop", objects=("dp-000000000000",)), 600304, 1),
        (made("something.unheard-of"), 600399, 1),
        (
            made(
                "inference.completion",
                actor="cl-000000000000",
                identified_by="api-key",
                details={"request_id": "req-1", "status": 503},
            ),
            600399,
            2,
        ),
        (
            made(
                "inference.counted",
                actor="anonymous",
                identified_by="none",
                decision="deny",
                details={"status": 401, "count": 12, "since": "2026-11-21T10:59:00.000+00:00"},
            ),
            600399,
            2,
        ),
    ],
)
def test_entries_become_events_of_their_class(entry: Entry, type_uid: int, status: int) -> None:
    event = entry_event(ORIGIN, 41, entry.canonical())
    assert event.keys() >= REQUIRED
    assert OF_CLASS[event["class_uid"]] <= event.keys()
    assert event["type_uid"] == type_uid == event["class_uid"] * 100 + event["activity_id"]
    assert event["category_uid"] == event["class_uid"] // 1000
    assert event["status_id"] == status
    assert event["metadata"]["version"] == "1.8.0"
    assert event["metadata"]["uid"] == f"{ORIGIN}#41"
    assert event["metadata"]["sequence"] == 41
    assert {"name", "vendor_name"} <= event["metadata"]["product"].keys()
    assert event["raw_data"].encode() == entry.canonical()
    assert event["raw_data_hash"]["value"] == sha256(entry.canonical()).hexdigest()
    if event["class_uid"] == 6003:
        assert event["api"]["operation"] == entry.action
        assert event["actor"].keys() & {"user", "app_name", "app_uid"}
        assert event["src_endpoint"].keys() & {"uid", "name", "svc_name"}
    if "count" in event:
        assert event["start_time"] == event["time"] < event["end_time"]
    else:
        assert event["time"] == 1795258800123
    assert json.loads(encode(event)) == event
    assert encode(event).isascii()


def test_a_syslog_message_is_that_of_the_specification() -> None:
    entry = made("vault.unlock", actor="zoë\n<13>1 forged", decision="refused")
    message = HEADER.message(entry_event(ORIGIN, 0x7FFFFFFF, entry.canonical()))
    match = MESSAGE.fullmatch(message)
    assert match is not None
    assert match.groups()[:6] == (
        b"108",  # facility 13, severity warning
        b"2026-11-21T11:00:00.123Z",
        b"appliance.test",
        b"cloister",
        b"vault.unlock",
        b'[meta sequenceId="1"][origin software="cloister"]',
    )
    assert b"\n" not in message
    assert message.isascii()
    assert octet_counted(message) == str(len(message)).encode() + b" " + message
    odd = Header("ho st\n", 13).message(entry_event(ORIGIN, 1, made("a b\nc").canonical()))
    assert MESSAGE.fullmatch(odd) is not None


def test_an_exported_head_is_the_signed_note(open_ledger: Open) -> None:
    ledger = open_ledger()
    fill(ledger, 3)
    ledger.flush()
    event = head_event(ORIGIN, ledger.head(), 1_795_258_800_000_000)
    assert event.keys() >= REQUIRED
    note = event["raw_data"].encode()
    assert note.decode() == ledger.head().signed_note
    assert event["unmapped"] == {"size": 3, "root": ledger.head().root.hex()}


# --- receivers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tcp", "tls"])
def test_a_killed_stream_receiver_loses_nothing(
    kind: str, open_ledger: Open, tmp_path: Path, ship: Callable[..., Shipping]
) -> None:
    context = None
    server = None
    if kind == "tls":
        ca, certificate, key = certificates(tmp_path)
        context = ssl.create_default_context(cafile=ca)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(certificate, key)
    receiver = StreamReceiver(server)
    receiver.start()
    ledger = open_ledger(settings=Settings(sign_after_s=0.01))
    sink = SyslogStream("127.0.0.1", receiver.port, HEADER, tls=context)
    shipping = ship(ledger, sink)
    rng = random.Random(4)
    for turn in range(5):
        if turn % 2:
            receiver.reading.clear()  # what comes now is received by its system and never read
        fill(ledger, rng.randrange(50, 700))
        if not turn % 2:
            wait_until(lambda: len(receiver.messages) > rng.randrange(20))
        else:
            wait_until(lambda: shipping.status().behind == 0 or shipping.status().down_s is not None)
        receiver.kill()
        fill(ledger, 30)
        wait_until(lambda: shipping.status().down_s is not None)
        receiver.start()
    wait_until(lambda: complete(events_of(receiver.messages), ledger))
    events = events_of(receiver.messages)
    in_order(indices(events))
    same_bytes(events, ledger)
    wait_until(lambda: shipping.status().down_s is None and not shipping.status().behind)
    ledger.flush()
    fill(ledger, 1)
    ledger.flush()
    wait_until(lambda: ORIGIN in shipping.status().heads)
    wait_until(lambda: any(event["class_uid"] == 0 for event in events_of(receiver.messages)))
    heads = [event for event in events_of(receiver.messages) if event["class_uid"] == 0]
    assert all("— " + ORIGIN in str(event["raw_data"]) for event in heads)
    shipping.stop()
    receiver.kill()


def test_a_killed_unix_receiver_loses_nothing(
    open_ledger: Open, tmp_path: Path, ship: Callable[..., Shipping]
) -> None:
    receiver = DatagramReceiver(tmp_path / "log.sock")
    ledger = open_ledger()
    fill(ledger, 40)
    shipping = ship(ledger, SyslogDatagram(str(receiver.path), HEADER))
    wait_until(lambda: shipping.status().problem == "No such file or directory")
    for _ in range(3):
        receiver.start()
        wait_until(lambda: len(receiver.messages) > 10)
        fill(ledger, 300)
        receiver.kill()
        fill(ledger, 20)
        wait_until(lambda: shipping.status().down_s is not None)
    receiver.start()
    wait_until(lambda: complete(events_of(receiver.messages), ledger))
    in_order(indices(events_of(receiver.messages)))
    shipping.stop()
    receiver.kill()


def test_udp_reaches_its_receiver_and_long_entries_are_cut_to_a_datagram(
    open_ledger: Open, ship: Callable[..., Shipping]
) -> None:
    receiver = DatagramReceiver()
    receiver.start()
    ledger = open_ledger()
    fill(ledger, 20)
    ledger.append(sample(20, pad=64_500))
    shipping = ship(ledger, SyslogDatagram(("127.0.0.1", receiver.port), HEADER))
    wait_until(lambda: complete(events_of(receiver.messages), ledger))
    events = {e["metadata"]["sequence"]: e for e in events_of(receiver.messages) if e["class_uid"]}  # type: ignore[index,call-overload]
    assert events[20]["metadata"]["is_truncated"] is True
    assert "raw_data" not in events[20]
    entry = next(ledger.raw_entries(20, 21))
    assert events[20]["raw_data_hash"]["value"] == sha256(entry).hexdigest()
    assert "is_truncated" not in events[19]["metadata"]
    shipping.stop()
    receiver.kill()


def test_a_receiver_with_another_certificate_gets_nothing(
    open_ledger: Open, tmp_path: Path, ship: Callable[..., Shipping]
) -> None:
    _, certificate, key = certificates(tmp_path)
    (tmp_path / "other").mkdir()
    other_ca, *_ = certificates(tmp_path / "other")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    receiver = StreamReceiver(server)
    receiver.start()
    ledger = open_ledger()
    fill(ledger, 5)
    context = ssl.create_default_context(cafile=other_ca)
    shipping = ship(ledger, SyslogStream("127.0.0.1", receiver.port, HEADER, tls=context))
    wait_until(lambda: "certificate" in (shipping.status().problem or ""))
    assert shipping.status().behind == 5
    shipping.stop()
    assert receiver.messages == []
    receiver.kill()


def test_a_restart_goes_on_from_the_cursor(
    open_ledger: Open, tmp_path: Path, ship: Callable[..., Shipping]
) -> None:
    receiver = StreamReceiver()
    receiver.start()
    ledger = open_ledger()
    sink = SyslogStream("127.0.0.1", receiver.port, HEADER)
    cursor = tmp_path / "cursors" / "siem.json"
    fill(ledger, 500)
    shipping = ship(ledger, sink, resend_s=0.0)
    wait_until(lambda: complete(events_of(receiver.messages), ledger))
    shipping.stop()
    assert json.loads(cursor.read_text())["logs"][ORIGIN][0] == 500
    fill(ledger, 10)
    receiver.messages.clear()
    ship(ledger, sink, resend_s=0.0).status()
    wait_until(lambda: len(indices(events_of(receiver.messages))) >= 10)
    assert indices(events_of(receiver.messages)) == list(range(500, 510))
    receiver.kill()


@pytest.mark.parametrize("damage", ["torn", "another log", "gone"])
def test_a_cursor_that_cannot_be_believed_sends_everything_again(
    damage: str, open_ledger: Open, tmp_path: Path, ship: Callable[..., Shipping]
) -> None:
    ledger = open_ledger()
    fill(ledger, 30)
    path = tmp_path / "out.jsonl"
    sink = JsonLines(path, rotate_bytes=1 << 20, keep=2)
    shipping = ship(ledger, sink)
    wait_until(lambda: shipping.status().sent >= 30)
    shipping.stop()
    cursor = tmp_path / "cursors" / "siem.json"
    if damage == "torn":
        cursor.write_bytes(cursor.read_bytes()[:20])
    elif damage == "another log":
        document = json.loads(cursor.read_text())
        document["logs"][ORIGIN] = [30, "00" * 32]
        cursor.write_text(json.dumps(document))
    else:
        cursor.unlink()
    again = ship(ledger, JsonLines(path, rotate_bytes=1 << 20, keep=2))
    wait_until(lambda: again.status().sent >= 30)
    again.stop()
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert indices(lines) == [*range(30), *range(30)]
    problem = again.status().problem or ""
    assert {"torn": "cannot be read", "another log": "not the log", "gone": ""}[damage] in problem


def test_a_receiver_that_accepts_and_closes_at_once_is_down_all_the_time(
    open_ledger: Open, ship: Callable[..., Shipping]
) -> None:
    """As a load balancer does that has nothing behind it."""
    ledger = open_ledger()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepted: list[int] = []

        def close_at_once() -> None:
            with contextlib.suppress(OSError):
                while True:
                    listener.accept()[0].close()
                    accepted.append(1)

        threading.Thread(target=close_at_once, daemon=True).start()
        shipping = ship(ledger, SyslogStream("127.0.0.1", listener.getsockname()[1], HEADER))
        wait_until(lambda: len(accepted) > 1)
        seen: list[float | None] = []
        while len(accepted) < 4:
            fill(ledger, 1)
            seen.append(shipping.status().down_s)
            time.sleep(0.01)
        assert None not in seen
        assert seen == sorted(seen, key=float)  # one time, not each attempt's own
        listener.shutdown(socket.SHUT_RDWR)


def test_a_restart_does_not_begin_the_time_anew_in_which_a_sink_is_down(
    open_ledger: Open, tmp_path: Path, ship: Callable[..., Shipping]
) -> None:
    ledger = open_ledger()
    fill(ledger, 5)
    path = tmp_path / "mount" / "out.jsonl"
    cursor = tmp_path / "cursors" / "siem.json"

    def sink() -> JsonLines:
        return JsonLines(path, rotate_bytes=1 << 20, keep=2)

    shipping = ship(ledger, sink())
    wait_until(cursor.exists)  # before anything stops: a killed process leaves it too
    shipping.stop()
    document = json.loads(cursor.read_text())
    cursor.write_text(json.dumps({**document, "down_since": document["down_since"] - 1000}))
    again = ship(ledger, sink())
    assert (again.status().down_s or 0) >= 1000
    path.parent.mkdir()
    wait_until(lambda: again.status().down_s is None and again.status().sent == 5)
    wait_until(lambda: json.loads(cursor.read_text())["down_since"] is None)
    again.stop()
    assert (ship(ledger, sink()).status().down_s or 0) < 1000


def test_files_are_rotated_private_and_whole(
    open_ledger: Open, tmp_path: Path, ship: Callable[..., Shipping]
) -> None:
    ledger = open_ledger()
    path = tmp_path / "out.jsonl"
    path.write_bytes(b'{"metadata":{}}\n{"torn": "by a cr')
    fill(ledger, 400)
    shipping = ship(ledger, JsonLines(path, rotate_bytes=40_000, keep=50))
    wait_until(lambda: shipping.status().sent >= 400)
    for _ in range(10):
        fill(ledger, 60)
        wait_until(lambda: shipping.status().behind == 0)
    wait_until(lambda: shipping.status().sent >= 1000)
    moved = tmp_path / "taken-by-logrotate"
    path.rename(moved)
    fill(ledger, 5)
    wait_until(lambda: path.exists() and shipping.status().sent >= 1005)
    shipping.stop()
    parts = sorted(tmp_path.glob("out.jsonl.*"), key=lambda part: -int(part.suffix[1:]))
    assert len(parts) > 3
    assert all(part.stat().st_mode & 0o077 == 0 for part in (path, *parts[1:]))
    data = b"".join(part.read_bytes() for part in (*parts, moved, path))
    assert b"by a cr" not in data
    events = [json.loads(line) for line in data.splitlines()]
    assert indices(events) == list(range(1005))
    same_bytes(events[1:], ledger)


def test_only_so_many_rotated_files_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    sink = JsonLines(path, rotate_bytes=100, keep=2)
    sink.open()
    for number in range(9):
        sink.send([b"%d" % number * 80 + b"\n"])
    sink.close()
    assert sorted(part.name for part in tmp_path.iterdir()) == ["out.jsonl", "out.jsonl.1", "out.jsonl.2"]
    assert path.read_bytes()[:1] == b"8"
    assert (tmp_path / "out.jsonl.2").read_bytes()[:1] == b"6"


def test_a_file_on_a_disk_that_fails_holds_nothing_up(
    open_ledger: Open, tmp_path: Path, ship: Callable[..., Shipping], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger(signer=None)
    shipping = ship(ledger, JsonLines(tmp_path / "no" / "such" / "folder.jsonl", rotate_bytes=1000, keep=1))
    fill(ledger, 300)  # the ledger does not wait for a sink
    wait_until(lambda: shipping.status().down_s is not None and shipping.status().behind == 0)
    assert "No such file" in (shipping.status().problem or "")
    os.makedirs(tmp_path / "no" / "such")
    wait_until(lambda: shipping.status().sent == 300)
    assert shipping.status().problem is None


def test_a_log_that_cannot_be_read_holds_no_other_one_up(tmp_path: Path, open_ledger: Open) -> None:
    """What tells of its trouble may be in the other one."""
    ledger = open_ledger()
    out = tmp_path / "out.jsonl"
    good = [True]

    def broken() -> Any:
        if good[0]:
            raise NotFound("it has not begun")
        raise Tampered("its tree head is not signed by its key")

    logs = {"other.test/log": broken, ledger.origin: ledger.snapshot}
    shipping = Shipping(
        "lines",
        JsonLines(out, rotate_bytes=1 << 20, keep=2),
        logs,
        tmp_path / "cursor.json",
        resend_s=0,
        head_every_s=60,
    )
    shipping.start()
    try:
        ledger.append(sample(1))
        wait_until(lambda: shipping.status().sent == 1 and shipping.status().problem is None)
        good[0] = False
        wait_until(lambda: shipping.status().problem is not None)
        ledger.append(sample(2))
        wait_until(lambda: shipping.status().sent == 2)
        said = shipping.status()
        assert said.down_s is not None and "tree head" in (said.problem or "")
        good[0] = True
        wait_until(lambda: shipping.status().down_s is None and shipping.status().problem is None)
    finally:
        shipping.stop()
    uids = [json.loads(line)["metadata"]["uid"] for line in out.read_text().splitlines()]
    assert len(uids) == len(set(uids))
