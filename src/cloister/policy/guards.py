"""What policies ask for with `has`, set against the schema.

Cedar takes `has` of a name that nothing has for false, and says nothing: a `forbid` with a misspelt bound would never
forbid. Whether a name can be there is asked of Cedar's own validator, by reading it instead. Knows texts and no state.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import cedarpy

from cloister.errors import InvalidInput
from cloister.policy.actions import ACTIONS
from cloister.policy.cedar import SCHEMA, PolicySet

MOST = 1000
_NOWHERE = "no attribute has this name"


def refuse_unknown_names(policies: PolicySet, where: str) -> None:
    """Raises InvalidInput where a policy asks whether its resource, or who asks, has what none within its scope has."""
    asked = []
    for policy in policies.policies:
        scope = json.loads(policy.canonical)
        each = {json.dumps(has, sort_keys=True): has for has in _has(scope["conditions"])}
        asked += [(policy.id, scope, has) for has in each.values()]
    if not asked:
        return
    if len(asked) > MOST:
        raise InvalidInput(f"a policy set asks with `has` for at most {MOST} things", where=where)
    kinds = sorted({kind for action in ACTIONS for kind in action.kinds})
    probes = {
        f"{number}/{kind}/{name == _NOWHERE}": _reading(scope, kind, has["left"], name)
        for number, (_, scope, has) in enumerate(asked)
        for kind in kinds
        for name in (has["attr"], _NOWHERE)
    }
    document = {"templates": {}, "staticPolicies": probes, "templateLinks": []}
    for probe, made in probes.items():
        made["annotations"] = {"id": probe}
    found = cedarpy.validate_policies(
        cedarpy.policies_from_json_str(json.dumps(document)), policies.files[SCHEMA]
    )
    named = found.id_annotations_by_policy_id
    missing = {named[one.policy_id] for one in found.errors if one.error.endswith(" not found")}
    for number, (policy_id, _, has) in enumerate(asked):
        within = [kind for kind in kinds if f"{number}/{kind}/True" in missing]
        if within and all(f"{number}/{kind}/False" in missing for kind in within):
            raise InvalidInput(
                f"{policy_id}: nothing that it is about can have {has['attr']!r}: it would never hold",
                where=where,
                remedy=f"The names are in {SCHEMA}.",
            )


def _has(conditions: list[Any]) -> Iterator[dict[str, Any]]:
    """Every `has` on something of the resource or the principal. What a context has follows from the action alone."""
    waiting: list[Any] = list(conditions)
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            found = part.get("has")
            if (
                isinstance(found, dict)
                and found.keys() == {"left", "attr"}
                and _root(found["left"]) != "context"
            ):
                yield found
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


def _root(part: dict[str, Any]) -> str | None:
    while "." in part:
        part = part["."]["left"]
    return part.get("Var")


def _reading(scope: dict[str, Any], kind: str, left: dict[str, Any], name: str) -> dict[str, Any]:
    """A policy of that scope which reads the attribute, of a resource of that kind."""
    read = {".": {"left": left, "attr": name}}
    body = {
        "&&": {
            "left": {"is": {"left": {"Var": "resource"}, "entity_type": kind}},
            "right": {"==": {"left": read, "right": read}},
        }
    }
    parts = {part: scope[part] for part in ("effect", "principal", "action", "resource")}
    return {**parts, "conditions": [{"kind": "when", "body": body}]}
