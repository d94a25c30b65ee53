"""The tests of a policy set: questions with the answers they must get, in JSON files beside the policies.

A file is a list of `{"roles": [...], "action": ..., "kind": ..., "allow": true, "because": "<policy id>"}`;
`kind` may be left out where the action has only one, `because` always. About the thing: its `classification`
(public unless given), `evaluated` (true unless given: better than its base in all numbers), `wrong` (false unless
given: its run went wrong, and its adapter is from before), for approvals and jobs
`own` (asked for by the same account), and for approvals `before` (it approved something on the same data before) and
`asked` (it asked for something on the same data before, which was approved). `consent` is what
somebody else has said: none, approved, or signed;
`personal` what is known of personal data in a run's rows (none unless given); `form` how, where the action has forms
(the strictest unless given).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from cloister.api import Classification
from cloister.errors import InvalidInput
from cloister.policy.actions import BY_NAME
from cloister.policy.cedar import MAX_FILE_BYTES, MAX_FILES, PolicySet, Question
from cloister.policy.things import (
    APPROVED,
    MILDEST,
    NO_CONSENT,
    SIGNED,
    Bounds,
    Facts,
    PersonalData,
    Scores,
)

ASKER = 1000
"""The user id of the account in the tests."""


class Case(BaseModel):
    """One question and the answer it must get."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    roles: list[str]
    action: str
    kind: str | None = None
    classification: Classification = "public"
    consent: Literal["none", "approved", "signed"] = "none"
    evaluated: bool = True
    wrong: bool = False
    own: bool = False
    before: bool = False
    asked: bool = False
    form: Literal["encrypted", "plain"] | None = None
    personal: PersonalData = "none"
    allow: bool
    because: str | None = None


_CASES = TypeAdapter(list[Case])


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
    cases = []
    for path in files:
        try:
            with path.open("rb") as file:
                raw = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise InvalidInput(f"cannot be read: {error.strerror}", where=str(path)) from None
        cases += [(path.name, case) for case in parse_cases(raw, str(path))]
    return run_all(policies, cases)


def run_all(policies: PolicySet, cases: Sequence[tuple[str, Case]]) -> tuple[CaseResult, ...]:
    """Put every case, given with the name of its file."""
    results, numbers = [], Counter[str]()
    for name, case in cases:
        numbers[name] += 1
        results.append(CaseResult(f"{name}: {numbers[name]}", _run(policies, case)))
    return tuple(results)


def parse_cases(raw: bytes, where: str) -> list[Case]:
    """The cases of one file. Errors: InvalidInput."""
    if len(raw) > MAX_FILE_BYTES:
        raise InvalidInput(f"a file of tests has at most {MAX_FILE_BYTES} bytes", where=where)
    try:
        return _CASES.validate_python(json.loads(raw))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"{place}: {first['msg']}", where=where) from None
    except (ValueError, RecursionError):
        raise InvalidInput("not JSON", where=where) from None


def _facts(case: Case) -> Facts:
    facts = replace(
        MILDEST, classification=case.classification, personal=case.personal, went_wrong=case.wrong
    )
    if not case.evaluated:
        facts = replace(facts, evaluated=False, tuned=Scores(), base=Scores(), evaluation=Bounds())
    if case.own:
        facts = replace(facts, requester=ASKER)
    return replace(
        facts,
        approved_before=frozenset({ASKER} if case.before else ()),
        asked_before=frozenset({ASKER} if case.asked else ()),
    )


def _run(policies: PolicySet, case: Case) -> str | None:
    action = BY_NAME.get(case.action)
    if action is None:
        return f"there is no action {case.action}"
    kinds = action.kinds if case.kind is None else (case.kind,)
    for kind in kinds:
        question = Question(
            "somebody",
            frozenset(case.roles),
            case.action,
            kind,
            uid=ASKER,
            facts=_facts(case),
            consent={"none": NO_CONSENT, "approved": APPROVED, "signed": SIGNED}[case.consent],
            form=case.form,
        )
        decision = policies.decide(question)
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
