"""Something of each classification and situation in a running appliance's state, and the request that asks for a cell
of the table on it."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from fastapi.routing import APIRoute

from cloister.api import ObjectKind
from cloister.appliance.authority import Authority
from cloister.appliance.guard import actions_of
from cloister.appliance.http import create_app
from cloister.appliance.ids import new_id
from cloister.appliance.state import (
    ApprovalRow,
    ClassificationRow,
    DeploymentRow,
    JobRow,
    ObjectRow,
    RunRow,
    open_state,
)
from cloister.appliance.store import utc_now
from cloister.home import Home
from cloister.policy import Settings
from cloister.policy.actions import ACTIONS
from cloister.policy.cedar import Demand, PolicySet
from cloister.policy.table import Cell
from cloister.policy.things import CLASSIFICATIONS

RECIPIENT = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
SHOWED: dict[str, dict[str, Any] | None] = {
    "measured better": {"base": {"loss": 3.0}, "tuned": {"loss": 0.5}},
    "measured no better": {"base": {"loss": 3.0}, "tuned": {"loss": 3.0}},
    "not measured": None,
    "went wrong, not measured": None,
}
WRONG = "went wrong"
FAULT = {"title": "Diverged", "status": 422, "code": "diverged", "detail": "It went wrong."}
FOUND = "personal data found"
SOMEBODY_ELSE = 60_001
NOT_SHOWN = "0" * 64
QUEUED = ("job.raise", "job.lower")
LISTED = {"Dataset": "datasets", "Base": "bases", "Model": "models", "Run": "runs"}
SLOW = "/v1/policy/table"
"""Asked for by one role; the others read the policies elsewhere."""


@dataclass(frozen=True)
class Ask:
    """One request for one cell. `of_thing`: it says which thing it is about; else that counts as the strictest."""

    place: tuple[str, str, str, str]
    method: str
    path: str
    body: Any = None
    of_thing: bool = True


def plant(home: Home, uids: Mapping[str, int]) -> dict[tuple[str, ...], str]:
    """Names and ids: datasets, runs, models and deployments by kind, class and what was measured; approvals by class,
    situation and the role that is to decide on them."""
    found: dict[tuple[str, ...], str] = {}
    engine, sessions = open_state(home.state)
    now = utc_now()

    def stored(kind: ObjectKind, name: str, inputs: Sequence[str] = ()) -> ObjectRow:
        return ObjectRow(
            object_id=new_id(kind),
            version=1,
            kind=kind,
            name=name,
            created_at=now,
            created_by="x",
            sealed_bytes=0,
            manifest_sha256="0" * 64,
            inputs=list(inputs),
            counts={},
            details={},
        )

    def approval(data: str, classification: str, asker: int, **more: Any) -> ApprovalRow:
        values: dict[str, Any] = {
            "approval_id": new_id("approval"),
            "state": "pending",
            "action": "shred.start",
            "kind": "Dataset",
            "thing": data,
            "name": "thing",
            "classification": classification,
            "digest": "1" * 64,
            "request": {},
            "summary": [],
            "data": [data],
            "signature_needed": False,
            "requested_by": "x",
            "requester": asker,
            "requested_at": now,
            "expires_at": now + timedelta(days=1),
            "document": "",
        }
        return ApprovalRow(**(values | more))

    with sessions.begin() as session:
        session.add(stored(ObjectKind.BASE, "a-base"))
        for classification in CLASSIFICATIONS:
            data = stored(ObjectKind.DATASET, f"{classification}-data")
            session.add(data)
            session.add(
                ClassificationRow(
                    object_id=data.object_id, classification=classification, set_at=now, set_by="x"
                )
            )
            found["Dataset", classification] = data.name
            looked = stored(ObjectKind.DATASET, f"{classification}-{FOUND.replace(' ', '-')}")
            session.add(looked)
            session.add(
                ClassificationRow(
                    object_id=looked.object_id, classification=classification, set_at=now, set_by="x"
                )
            )
            session.add(
                JobRow(
                    job_id=new_id("job"),
                    verb="report",
                    state="done",
                    name=looked.name,
                    config={"personal": True, "personal_every": 1},
                    inputs={"dataset": {"object_id": looked.object_id, "version": 1, "manifest_sha256": ""}},
                    result={"personal": {"looked_at": 3, "rows": 1, "found": {"name": {"user": 1}}}},
                    requested_by="x",
                    created_at=now,
                    ended_at=now,
                )
            )
            for number, (situation, report) in enumerate(SHOWED.items()):
                name = f"{classification}-{number}"
                adapter = stored(ObjectKind.ADAPTER, f"{name}-adapter", [data.object_id])
                model = stored(ObjectKind.MODEL, name, [data.object_id, adapter.object_id])
                job = JobRow(
                    job_id=new_id("job"),
                    verb="train",
                    state="failed" if situation.startswith(WRONG) else "done",
                    subject=adapter.object_id,
                    name=f"{name}-run",
                    config={},
                    inputs={},
                    requested_by="x",
                    created_at=now,
                    error=FAULT if situation.startswith(WRONG) else None,
                )
                run = RunRow(
                    run_id=new_id("run"),
                    name=f"{name}-run",
                    dataset=data.object_id,
                    base="bm-none",
                    train={},
                    created_at=now,
                    created_by="x",
                    train_job=job.job_id,
                    adapter=adapter.object_id,
                    evaluation=report,
                )
                served = DeploymentRow(
                    deployment_id=new_id("deployment"),
                    name=f"{name}-served",
                    model=model.object_id,
                    state="stopped",
                    config={},
                    created_at=now,
                    created_by="x",
                    restarts=0,
                    last_event=0,
                )
                session.add_all([adapter, model, job, run, served])
                for kind, row in (("Model", model), ("Run", run), ("Deployment", served)):
                    found[kind, classification, situation] = row.name
            for role, uid in uids.items():
                own = {"one's own": uid}
                for situation in ("another's", "one's own", "second gate", "asked at another gate"):
                    about = data.object_id
                    if situation not in ("another's", "one's own"):
                        about = f"{data.object_id}-{role}-{situation}"
                    asked = approval(about, classification, own.get(situation, SOMEBODY_ELSE))
                    session.add(asked)
                    found["Approval", classification, situation, role] = asked.approval_id
                for situation, asker, decider in (
                    ("second gate", SOMEBODY_ELSE, uid),
                    ("asked at another gate", uid, SOMEBODY_ELSE),
                ):
                    before = approval(f"{data.object_id}-{role}-{situation}", classification, asker)
                    before.action, before.state, before.decider = "run.start", "used", decider
                    before.stands_until = now
                    session.add(before)
        for role, uid in uids.items():
            for situation, asker in (("another's", SOMEBODY_ELSE), ("one's own", uid)):
                for action in QUEUED:
                    queued = JobRow(
                        job_id=new_id("job"),
                        verb="merge",
                        state="paused",
                        name="queued",
                        config={},
                        inputs={},
                        requested_by="x",
                        asked_by=asker,
                        created_at=now,
                    )
                    session.add(queued)
                    found["Job", action, situation, role] = queued.job_id
    engine.dispose()
    return found


def routes(folder: Path) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Methods and paths by action and kind."""
    home = Home(folder)
    home.make()
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    kinds = {action.name: action.kinds for action in ACTIONS}
    for route in create_app(Authority(home, Settings())).routes:
        if not isinstance(route, APIRoute):
            continue
        for action in actions_of(route):
            for kind in kinds[action]:
                path = route.path.replace("{collection}", LISTED.get(kind, "datasets"))
                found.setdefault((action, kind), []).append((min(route.methods), path))
    return found


def requests_for(
    cell: Cell,
    doors: Mapping[tuple[str, str], list[tuple[str, str]]],
    things: Mapping[tuple[str, ...], str],
    mark: str,
    policies: PolicySet,
) -> list[Ask]:
    """Every request that asks for the cell; names that it would take begin with `mark`."""
    kind, strict = cell.kind, cell.classification
    situation = cell.situation or "measured better"
    known = {
        "Dataset": ("Dataset", strict),
        "Approval": ("Approval", strict, situation, cell.role),
        "Appliance": (),
        "Job": ("Job", cell.action, situation, cell.role),
    }.get(kind, (kind, strict, situation))
    thing = things.get(known, "nothing")
    number = list(SHOWED).index(situation) if situation in SHOWED else 0
    name = f"{mark}-{cell.role}-{strict}-{number}"
    encrypted = cell.form == "encrypted"
    rows = f"{strict}-{FOUND.replace(' ', '-') if situation == FOUND else 'data'}"
    bodies: dict[str, Any] = {
        "dataset.declassify": {"classification": "public"},
        "dataset.import": {"name": name, "config": {"source_name": "x"}, "classification": strict},
        "shred.start": {"confirm": thing},
        "run.start": {
            "name": f"{name}-found" if situation == FOUND else name,
            "dataset": rows,
            "base": "a-base",
        },
        "model.merge": {"name": name, "run": f"{strict}-0-run"},
        "model.export": {"form": cell.form, "recipients": [RECIPIENT] if encrypted else []},
        "deployment.start": {"name": name, "model": things.get(("Model", strict, situation))},
        "job.raise": {"priority": 10},
        "job.lower": {"priority": -10},
        "approval.give": {"digest": NOT_SHOWN},
        "approval.refuse": {"digest": NOT_SHOWN},
        "policy.change": {"files": {**policies.files, "mark.cedar": _mark(mark)}},
    }
    found = []
    for method, path in doors[cell.action, kind]:
        if path == SLOW and cell.role != "auditor":
            continue
        body = bodies.get(cell.action)
        told = body is not None or "{reference}" in path or "{approval_id}" in path
        for parameter in ("reference", "approval_id"):
            path = path.replace(f"{{{parameter}}}", thing)
        for parameter in ("index", "slot", "backup_id", "shred_id", "reveal_id"):
            path = path.replace(f"{{{parameter}}}", "999999")
        path = (
            path.replace("{job_id}", thing if cell.action in QUEUED else "jb-none")
            .replace("{ledger}", "control")
            .replace("{path:path}", "0")
        )
        found.append(Ask(cell.place, method, path, body, of_thing=told))
    return found


def _mark(mark: str) -> str:
    return f'@id("{mark}-mark")\nforbid (principal in Role::"gateway", action == Action::"run.start", resource);\n'


def answers(path: Path, asked: Sequence[Ask]) -> list[tuple[int, str, str]]:
    """Status, code and the id of an approval that is needed, of each request; all over one connection."""
    found = []
    connection = _connected(path)
    for one in asked:
        body = b"" if one.body is None else json.dumps(one.body).encode()
        headers = {"content-length": str(len(body)), "content-type": "application/json"}
        connection.request(one.method, one.path, body or None, headers if one.method == "POST" else {})
        answer = connection.getresponse()
        if answer.headers.get_content_type() == "text/event-stream":
            found.append((answer.status, "", ""))
            connection.close()
            connection = _connected(path)
            continue
        said = answer.read()
        problem = json.loads(said) if answer.status >= 400 else {}
        needed = (problem.get("values") or {}).get("approval", "")
        found.append((answer.status, problem.get("code", ""), needed))
    connection.close()
    return found


def outcome(answer: Sequence[Any], signed: Mapping[str, bool]) -> Demand | None:
    """What an answer says of its cell; None for one that no cell could get. `signed`: by approval."""
    status, code, needed = answer
    if code == "approval-needed":
        return (Demand.SIGNATURE if signed[needed] else Demand.APPROVAL) if needed in signed else None
    if status == 403:
        return Demand.DENIED if code == "denied" else None
    return Demand.NOTHING if status < 500 and status not in (401, 429) else None


def _connected(path: Path) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("authority", timeout=120)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(120)
    connection.sock.connect(str(path))
    return connection
