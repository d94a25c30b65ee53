"""The OpenAPI document put to the test by Schemathesis, as each role: no 500, no change unrecorded, no content."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pwd
import signal
import socket
import sqlite3
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import HypothesisWarning, NonInteractiveExampleWarning
from tests.appliance.role_accounts import as_account, made_accounts, needs_root, shared_appliance
from tests.conftest import PASSPHRASE, Appliance, import_rows

from cloister.client import Client
from cloister.policy.table import COLUMNS

pytestmark = needs_root

CANARY = "Quetzal-Ombú-4417"
ROWS: list[dict[str, object]] = [
    {
        "messages": [
            {"role": "user", "content": f"{CANARY} {n}"},
            {"role": "assistant", "content": f"a{n} {CANARY}"},
        ]
    }
    for n in range(12)
]
DOCUMENT = Path(__file__).parents[2] / "deploy" / "openapi.json"
STATE = {
    "objects": "object_id, version, name",
    "jobs": "job_id, state",
    "runs": "run_id, adapter",
    "deployments": "deployment_id, state",
    "clients": "client_id, revoked_at",
    "shreds": "shred_id, state",
    "tombstones": "object_id, version",
    "holds": "hold_id, released_at",
    "backups": "backup_id, discarded_at",
    "approvals": "approval_id, state",
    "classifications": "object_id, classification",
    "policy_sets": "digest, in_force",
}
"""What is the appliance's to decide, by table: a change of it has an entry."""


class Prober:
    """A process of that account which sends what it is told to, and tells what was answered."""

    def __init__(self, account: str, path: Path) -> None:
        told, tell = os.pipe()
        answers, answer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(tell)
            os.close(answers)
            try:
                entry = pwd.getpwnam(account)
                os.initgroups(account, entry.pw_gid)
                os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
                os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
                with os.fdopen(told, "r") as lines, os.fdopen(answer, "w") as back:
                    for line in lines:
                        back.write(json.dumps(_send(path, **json.loads(line))) + "\n")
                        back.flush()
            finally:
                os._exit(0)
        os.close(told)
        os.close(answer)
        self._tell, self._answers = os.fdopen(tell, "w"), os.fdopen(answers, "r")

    def ask(self, method: str, target: str, body: Any = None, headers: Any = None) -> tuple[int, str]:
        question = {"method": method, "target": target, "body": body, "headers": headers or {}}
        self._tell.write(json.dumps(question) + "\n")
        self._tell.flush()
        status, text = json.loads(self._answers.readline())
        return status, text

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self._tell.close()
        self._answers.close()


def _send(path: Path, method: str, target: str, body: Any, headers: dict[str, str]) -> tuple[int, str]:
    connection = http.client.HTTPConnection("authority", timeout=120)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(120)
    connection.sock.connect(str(path))
    try:
        content = None if body is None else json.dumps(body)
        more = {"content-type": "application/json"} if body is not None else {"content-length": "0"}
        connection.request(method, target, body=content, headers={**headers, **more})
        answer = connection.getresponse()
        if answer.headers.get_content_type() == "text/event-stream":
            return answer.status, answer.fp.readline().decode(errors="replace")
        return answer.status, answer.read().decode(errors="replace")
    except (ValueError, http.client.InvalidURL, UnicodeError):
        return 0, ""  # no HTTP client would send that
    finally:
        connection.close()


@pytest.fixture(scope="module")
def people() -> Iterator[dict[str, str]]:
    with made_accounts() as accounts:
        yield accounts


@pytest.fixture(scope="module")
def shared(people: dict[str, str]) -> Iterator[Appliance]:
    with shared_appliance(api={"requests_per_s": 10_000, "burst": 100_000}) as appliance:
        path = appliance.home.authority_socket
        as_account(people["admin"], lambda: Client(path).initialise(PASSPHRASE))
        as_account(people["steward"], lambda: import_rows(Client(path), "notes", ROWS))
        yield appliance


def decided(state: Path) -> set[tuple[str, ...]]:
    """What is decided, a line each, once no job runs: what a job changes is entered before, not with the request."""
    busy = "select count(*) from jobs where state in ('queued', 'running')"
    with contextlib.closing(sqlite3.connect(f"file:{state}?mode=ro", uri=True)) as database:
        for _ in range(600):
            if database.execute(busy).fetchone() == (0,):
                break
            time.sleep(0.1)
        database.execute("begin")
        return {
            (table, *map(str, row))
            for table, columns in STATE.items()
            for row in database.execute(f"select {columns} from {table}")
        }


def cases(examples: int, number: int) -> Iterator[Any]:
    """Requests by the document: made-up ones, and the same about things that exist."""
    known = {"reference": "notes", "ledger": "control", "index": 0, "collection": "datasets"}
    document = json.loads(DOCUMENT.read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", (HypothesisWarning, NonInteractiveExampleWarning))
        schema = schemathesis.openapi.from_dict(document)
        for found in schema.get_all_operations():
            operation = found.ok()
            names = {one.name for one in operation.path_parameters}
            fixed = {name: value for name, value in known.items() if name in names}
            for parameters in [None, fixed] if fixed else [None]:
                strategy = operation.as_strategy(**({"path_parameters": parameters} if parameters else {}))
                yield from drawn(strategy, examples, number)


def drawn(strategy: Any, examples: int, number: int) -> list[Any]:
    """So many examples, the same for the same number."""
    made: list[Any] = []

    @seed(number)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(case: Any) -> None:
        made.append(case)

    collect()
    return made


def probe(
    role: str, shared: Appliance, people: dict[str, str], *, examples: int, seconds: float | None = None
) -> Counter[int]:
    path, state = shared.home.authority_socket, shared.home.state
    prober, auditor, admin = (Prober(people[name], path) for name in (role, "auditor", "admin"))
    answered: Counter[int] = Counter()
    end = time.monotonic() + seconds if seconds else None
    number = 0
    try:
        last, entries = decided(state), json.loads(auditor.ask("GET", "/v1/audit/head")[1])["entries"]
        before = entries
        while True:
            for case in cases(examples, number):
                sent = case.as_transport_kwargs(base_url="http://authority")
                target = (
                    case.formatted_path if not case.query else f"{case.formatted_path}?{_query(case.query)}"
                )
                body = sent.get("json")
                status, text = prober.ask(case.method, target, body)
                answered[status] += 1
                place = (role, case.method, target[:200], body)
                assert status != 500 or '"code":"error"' not in text.replace(" ", ""), (place, text[:500])
                assert CANARY not in text and "Quetzal" not in text, place
                now = decided(state)
                if now != last:
                    size = json.loads(auditor.ask("GET", "/v1/audit/head")[1])["entries"]
                    # What ends by itself is entered first and may have been counted with the change before this one.
                    since = max(entries if size > entries else before, size - 1000)
                    found = json.loads(auditor.ask("GET", f"/v1/audit/entries?start={since}&limit=1000")[1])
                    assert any(e["decision"] != "deny" for e in found), (place, sorted(now ^ last))
                    last, before, entries = now, entries, size
                if case.path.endswith(("/lock", "/unlock", "/init")):
                    admin.ask("POST", "/v1/unlock", {"passphrase": PASSPHRASE})
                if end is not None and time.monotonic() > end:
                    return answered
            if end is None:
                return answered
            number += 1
    finally:
        for one in (prober, auditor, admin):
            one.close()


def _query(values: dict[str, Any]) -> str:
    from urllib.parse import urlencode

    return urlencode({name: "" if value is None else value for name, value in values.items()}, doseq=True)


@pytest.mark.parametrize("role", COLUMNS)
def test_no_request_breaks_it_or_goes_unrecorded(
    role: str, shared: Appliance, people: dict[str, str]
) -> None:
    answered = probe(role, shared, people, examples=1)
    assert sum(answered.values()) > 80
    assert answered[403]


@pytest.mark.soak
@pytest.mark.parametrize("role", COLUMNS)
def test_ten_minutes_of_requests_break_nothing(role: str, shared: Appliance, people: dict[str, str]) -> None:
    seconds = float(os.environ.get("CLOISTER_FUZZ_SECONDS", "600"))
    answered = probe(role, shared, people, examples=20, seconds=seconds)
    print(
        f"soak: requests={sum(answered.values())} "
        + " ".join(f"{k}={v}" for k, v in sorted(answered.items()))
    )
