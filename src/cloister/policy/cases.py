"""The tests of a policy set: questions with the answers they must get, in JSON files beside the policies.

A file is a list of `{"roles": [...], "action": ..., "kind": ..., "allow": true, "because": "<policy id>"}`;
`kind` may be left out where the action has only one, `because` always.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from cloister.errors import InvalidInput
from cloister.policy.actions import BY_NAME
from cloister.policy.cedar import MAX_FILE_BYTES, MAX_FILES, PolicySet, Question


class _Case(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    roles: list[str]
    action: str
    kind: str | None = None
    allow: bool
    because: str | None = None


_CASES = TypeAdapter(list[_Case])


@dataclass(frozen=True)
class CaseResult:
    """One case: where it stands, and what was wrong, if anything."""

    where: str
    problem: str | None


def run_cases(policies: PolicySet, folder: Path) -> tuple[CaseResult, ...]:
    """Put every question of `folder/*.json`. Raises `InvalidInput` for a file that is no list of cases."""
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if len(files) > MAX_FILES:
        raise InvalidInput(f"at most {MAX_FILES} files of tests", where=str(folder))
    results = []
    for path in files:
        for number, case in enumerate(_read(path), 1):
            results.append(CaseResult(f"{path.name}: {number}", _run(policies, case)))
    return tuple(results)


def _read(path: Path) -> list[_Case]:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
        if len(raw) > MAX_FILE_BYTES:
            raise InvalidInput(f"a file of tests has at most {MAX_FILE_BYTES} bytes", where=str(path))
        return _CASES.validate_python(json.loads(raw))
    except OSError as error:
        raise InvalidInput(f"cannot be read: {error.strerror}", where=str(path)) from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"{place}: {first['msg']}", where=str(path)) from None
    except (ValueError, RecursionError):
        raise InvalidInput("not JSON", where=str(path)) from None


def _run(policies: PolicySet, case: _Case) -> str | None:
    action = BY_NAME.get(case.action)
    if action is None:
        return f"there is no action {case.action}"
    kinds = action.kinds if case.kind is None else (case.kind,)
    for kind in kinds:
        decision = policies.decide(Question("somebody", frozenset(case.roles), case.action, kind))
        said = "allowed" if decision.allowed else "denied"
        if decision.problem is not None:
            return decision.problem
        if decision.allowed is not case.allow:
            return (
                f"{case.action} on a {kind} is {said} to {' and '.join(case.roles) or 'nobody in particular'}"
            )
        if case.because is not None and case.because not in decision.policies:
            return f"{case.action} on a {kind} is {said} by {', '.join(decision.policies) or 'no policy'}"
    return None
