"""Ledger entries and tree heads as events of the Open Cybersecurity Schema Framework, version 1.8.

Class and activity numbers are those of schema.ocsf.io: Authentication 3002, Entity Management 3004,
Application Lifecycle 6002, API Activity 6003, Base Event 0. `raw_data` is the entry as the ledger keeps
it, byte for byte, so that whoever receives it can prove it. Knows nothing of how events travel.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import msgspec

from cloister.ledger.note import TreeHead
from cloister.ledger.terms import moment_us

SCHEMA_VERSION = "1.8.0"

AUTHENTICATION, ENTITY, LIFECYCLE, API, BASE = 3002, 3004, 6002, 6003, 0
OTHER = 99
_CLASS_NAMES = {
    AUTHENTICATION: "Authentication",
    ENTITY: "Entity Management",
    LIFECYCLE: "Application Lifecycle",
    API: "API Activity",
    BASE: "Base Event",
}
_CATEGORY_NAMES = {3: "Identity & Access Management", 6: "Application Activity", 0: "Uncategorized"}
_EXACT = {
    "vault.unlock": (AUTHENTICATION, 1, "Logon"),
    "vault.lock": (AUTHENTICATION, 2, "Logoff"),
    "client.issue": (ENTITY, 1, "Create"),
    "client.revoke": (ENTITY, 9, "Disable"),
    "authority.start": (LIFECYCLE, 3, "Start"),
    "authority.stop": (LIFECYCLE, 4, "Stop"),
    "gateway.start": (LIFECYCLE, 3, "Start"),
    "gateway.stop": (LIFECYCLE, 4, "Stop"),
    "engine.start": (LIFECYCLE, 3, "Start"),
    "deployment.down": (LIFECYCLE, 4, "Stop"),
}
_VERBS = {
    (1, "Create"): [
        "import",
        "start",
        "init",
        "issue",
        "merge",
        "serve",
        "approve",
        "request",
        "derive",
        "add",
    ],
    (2, "Read"): ["list", "show", "reveal", "export", "keys", "search", "check", "verify"],
    (3, "Update"): ["resume", "rotate", "done", "rename", "hello", "head", "anchor"],
    (4, "Delete"): ["shred", "shred-bodies", "forget", "remove", "revoke", "stop", "cancel"],
}
_BY_VERB = {verb: activity for activity, verbs in _VERBS.items() for verb in verbs}
_FAILED = frozenset({"deny", "denied", "refused", "rejected"})
_FAILING = frozenset({"failed", "refused", "interrupted", "down"})
_KINDS = {
    "ds": "dataset",
    "bm": "base model",
    "ad": "adapter",
    "ev": "evaluation",
    "mm": "merged model",
    "rn": "run",
    "jb": "job",
    "dp": "deployment",
    "cl": "API client",
}
_INFORMATIONAL, _LOW, _MEDIUM = 1, 2, 3
_FEW = 50
_SEVERITIES = {_INFORMATIONAL: "Informational", _LOW: "Low", _MEDIUM: "Medium"}
_STATUSES = {0: "Unknown", 1: "Success", 2: "Failure"}


def entry_event(origin: str, index: int, entry: bytes, *, whole: bool = True) -> dict[str, Any]:
    """The OCSF event of an entry of the log `origin`. Without `whole` it leaves out `raw_data`, and says so."""
    document: Mapping[str, Any] = msgspec.json.decode(entry)
    action = _text(document, "action") or "unknown"
    details = document.get("details")
    facts: Mapping[str, Any] = details if isinstance(details, dict) else {}
    class_uid, activity_id, activity = _classify(action)
    status = _status(document, action, facts)
    actor, endpoint = _actor(document)
    event = _event(
        class_uid,
        activity_id,
        activity,
        origin=origin,
        uid=f"{origin}#{index}",
        time_us=moment_us(document.get("time")) or 0,
        severity=_severity(class_uid, status),
    )
    event["metadata"] |= {
        "event_code": action,
        "sequence": index,
        "original_time": _text(document, "time"),
    }
    event["message"] = f"{document.get('actor')}: {action}"
    event |= {"status_id": status, "status": _STATUSES[status], "actor": actor}
    if reason := _text(document, "reason") or _text(document, "decision"):
        event["status_detail"] = reason
    request_id = facts.get("request_id")
    if isinstance(request_id, str):
        event["metadata"]["correlation_uid"] = request_id
    _counted(event, facts)
    objects = [one for one in document.get("objects") or () if isinstance(one, str) and one]
    if class_uid == API:
        event["src_endpoint"] = endpoint
        event["api"] = _api(action, origin, facts)
        event["resources"] = [_resource(one) for one in (objects if whole else objects[:_FEW])]
    elif class_uid == AUTHENTICATION:
        event["user"] = actor.get("user") or {"name": str(document.get("actor"))}
        event["service"] = {"name": "vault"}
        event["src_endpoint"] = endpoint
    elif class_uid == ENTITY:
        event["entity"] = {
            "uid": objects[0] if objects else "unknown",
            "type": "API client",
            "type_id": OTHER,
        }
    elif class_uid == LIFECYCLE:
        event["app"] = {"name": action.partition(".")[0], "vendor_name": "Cloister"}
    event["raw_data_hash"] = {
        "algorithm": "SHA-256",
        "algorithm_id": 3,
        "value": sha256(entry).hexdigest(),
    }
    event["raw_data_size"] = len(entry)
    if whole:
        event["raw_data"] = entry.decode()
    else:
        event["metadata"]["is_truncated"] = True
    return event


def head_event(origin: str, head: TreeHead, time_us: int) -> dict[str, Any]:
    """The OCSF event that carries a signed tree head: `raw_data` is the signed note."""
    note = head.signed_note or ""
    event = _event(
        BASE,
        OTHER,
        "Tree Head",
        origin=origin,
        uid=f"{origin}@{head.size}",
        time_us=time_us,
        severity=_INFORMATIONAL,
    )
    event["metadata"]["event_code"] = "ledger.tree-head"
    event["message"] = f"signed tree head of {head.size} entries"
    event["raw_data"] = note
    event["unmapped"] = {"size": head.size, "root": head.root.hex()}
    return event


def encode(event: Mapping[str, Any]) -> bytes:
    """One line of ASCII JSON."""
    return json.dumps(event, ensure_ascii=True, separators=(",", ":")).encode()


def _event(
    class_uid: int, activity_id: int, activity: str, *, origin: str, uid: str, time_us: int, severity: int
) -> dict[str, Any]:
    category = class_uid // 1000
    return {
        "category_uid": category,
        "category_name": _CATEGORY_NAMES[category],
        "class_uid": class_uid,
        "class_name": _CLASS_NAMES[class_uid],
        "activity_id": activity_id,
        "activity_name": activity,
        "type_uid": class_uid * 100 + activity_id,
        "type_name": f"{_CLASS_NAMES[class_uid]}: {activity}",
        "time": time_us // 1000,
        "severity_id": severity,
        "severity": _SEVERITIES[severity],
        "metadata": {
            "version": SCHEMA_VERSION,
            "product": {"name": "Cloister", "vendor_name": "Cloister", "feature": {"name": "ledger"}},
            "log_name": origin,
            "uid": uid,
        },
    }


def _classify(action: str) -> tuple[int, int, str]:
    known = _EXACT.get(action)
    if known is not None:
        return known
    verb = action.rpartition(".")[2]
    if verb in _BY_VERB:
        return API, *_BY_VERB[verb]
    return API, OTHER, verb.replace("-", " ").capitalize()


def _status(document: Mapping[str, Any], action: str, facts: Mapping[str, Any]) -> int:
    code = facts.get("status")
    if document.get("decision") in _FAILED or action.rpartition(".")[2] in _FAILING:
        return 2
    if isinstance(code, int) and code >= 400:
        return 2
    return 0 if document.get("decision") == "attempt" else 1


def _severity(class_uid: int, status: int) -> int:
    if status != 2:
        return _INFORMATIONAL
    return _MEDIUM if class_uid in (AUTHENTICATION, ENTITY) else _LOW


def _actor(document: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Who it was, and from where: an account of this machine, a client of the gateway, or a program."""
    name, how = str(document.get("actor")), str(document.get("identified_by"))
    if how.startswith("SO_PEERCRED"):
        user: dict[str, Any] = {"name": name, "type_id": 1, "type": "User"}
        uid = how.partition("uid=")[2]
        if uid:
            user["uid"] = uid
        return {"user": user}, {"name": "localhost", "svc_name": "authority"}
    if how == "api-key":
        return {"app_uid": name}, {"uid": name, "svc_name": "gateway"}
    if how == "none":
        return {"app_name": name}, {"svc_name": "gateway"}
    return {"app_name": name}, {"name": "localhost", "svc_name": name}


def _api(action: str, origin: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    api: dict[str, Any] = {"operation": action, "service": {"name": origin}}
    if isinstance(facts.get("request_id"), str):
        api["request"] = {"uid": facts["request_id"]}
    if isinstance(facts.get("status"), int):
        api["response"] = {"code": facts["status"]}
    return api


def _counted(event: dict[str, Any], facts: Mapping[str, Any]) -> None:
    """An entry that stands for several requests."""
    count, since = facts.get("count"), moment_us(facts.get("since"))
    if isinstance(count, int) and count > 1 and since is not None:
        event["count"] = count
        event["end_time"] = event["time"]
        event["time"] = event["start_time"] = since // 1000


def _resource(uid: str) -> dict[str, Any]:
    kind = _KINDS.get(uid.partition("-")[0])
    return {"uid": uid, "type": kind} if kind else {"uid": uid}


def _text(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name)
    return value if isinstance(value, str) else None
