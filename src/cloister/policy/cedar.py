"""Policy sets: read from a folder, validated whole, asked one question at a time. Fails closed.

Cedar skips a policy that errs, also a `forbid`; so a set that does not validate is never in force, and
only a clean Allow allows. Knows accounts, roles, actions and kinds of things by name; it does not know
who is connected or what is stored.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import product
from pathlib import Path
from typing import Any

import cedarpy

from cloister.errors import InvalidInput
from cloister.policy.actions import ACTIONS, BY_NAME
from cloister.policy.things import (
    APPROVED,
    LATER,
    MILDEST,
    NO_CONSENT,
    OF_SOMEBODY,
    SIGNED,
    STRICTEST,
    Consent,
    Facts,
)

SCHEMA = "cloister.cedarschema"
ROLES = ("admin", "steward", "trainer", "approver", "operator", "auditor")
"""What people may be, by their groups."""
SERVICE_ROLES = ("gateway", "sole")
"""`gateway` is the gateway's own account; `sole` the one account of an appliance without roles."""
MAX_FILE_BYTES = 1 << 20
MAX_FILES = 256
_TO_THE_END = re.compile(r'(?>"(?:\\.|[^"\\])*+"|//[^\n]*+|[^;"])*+;', re.DOTALL)
"""One policy up to its semicolon, which is none in a string or a comment."""
_BEFORE = re.compile(r"(?:\s|//[^\n]*)*")
_ID = re.compile("[a-z][a-z0-9-]{2,79}", re.ASCII)


@dataclass(frozen=True)
class Question:
    """May `account`, in `roles`, do `action` on a thing of kind `kind`? `facts` are about the thing.

    `form` is how, for an action that has forms; None is the last of them, the strictest.
    """

    account: str
    roles: frozenset[str]
    action: str
    kind: str
    thing: str = "any"
    uid: int = -1
    facts: Facts = STRICTEST
    consent: Consent = NO_CONSENT
    form: str | None = None


@dataclass(frozen=True)
class Decision:
    """`policies` are the ids that decided; none where nothing permits. `problem` says what went wrong, if anything."""

    allowed: bool
    policies: tuple[str, ...] = ()
    problem: str | None = None


class Demand(StrEnum):
    """What an account needs for an action besides its role."""

    NOTHING = "yes"
    APPROVAL = "approval"
    SIGNATURE = "signed approval"
    DENIED = "no"


@dataclass(frozen=True)
class PolicyText:
    """One policy as the files have it; `canonical` is its meaning as JSON, whatever its white space."""

    id: str
    effect: str
    file: str
    canonical: str = ""


class PolicySet:
    """One validated set. `digest` is SHA-256, hex, over the names and contents of its files."""

    def __init__(self, files: dict[str, str], where: str) -> None:
        if SCHEMA not in files:
            raise InvalidInput(f"a policy set has a {SCHEMA}", where=where)
        self.files = dict(files)
        self.digest = digest_of(files)
        policies: dict[str, PolicyText] = {}
        texts = []
        for name, text in sorted(files.items()):
            if name.endswith(".cedar"):
                for policy in _policies(name, text, where):
                    if policy.id in policies:
                        raise InvalidInput(f"two policies have the id {policy.id!r}", where=f"{where}/{name}")
                    policies[policy.id] = policy
                texts.append(text)
        if not policies:
            raise InvalidInput("a policy set has at least one policy", where=where)
        self.policies = tuple(policies.values())
        try:
            self._schema = cedarpy.Schema.from_str(files[SCHEMA])
        except ValueError as error:
            raise InvalidInput(f"not a Cedar schema: {error}", where=f"{where}/{SCHEMA}") from None
        said = re.sub(r"//[^\n]*", "", files[SCHEMA])
        self._unknown = frozenset(name for name in LATER if name not in said)
        found = cedarpy.validate_policies("\n".join(texts), self._schema)
        if not found.validation_passed:
            named = found.id_annotations_by_policy_id
            told = "; ".join(
                f"{named.get(one.policy_id, one.policy_id)}: {one.error}" for one in found.errors
            )
            raise InvalidInput(
                f"the policies do not fit the schema: {told}",
                where=where,
                remedy="Correct them; `cloister policy check DIR` tells when they fit.",
            )
        self._policies = cedarpy.PolicySet.from_str("\n".join(texts))
        for action in ACTIONS:
            for kind in action.kinds:
                problem = self.decide(Question("nobody", frozenset(), action.name, kind)).problem
                if problem is not None:
                    raise InvalidInput(
                        f"the schema does not have {action.name} for a {kind}: {problem}",
                        where=f"{where}/{SCHEMA}",
                    )

    @classmethod
    def load(cls, folder: Path) -> PolicySet:
        """Read and validate a folder. Raises `InvalidInput`, naming the file, for anything that is not right."""
        files = {}
        try:
            names = sorted(p.name for p in folder.iterdir() if p.name == SCHEMA or p.suffix == ".cedar")
        except OSError as error:
            raise InvalidInput(
                f"the policies cannot be read: {error.strerror}",
                where=str(folder),
                remedy="Nothing is allowed without policies: put the folder back.",
            ) from None
        if len(names) > MAX_FILES:
            raise InvalidInput(f"a policy set has at most {MAX_FILES} files", where=str(folder))
        for name in names:
            files[name] = _read(folder / name)
        return cls(files, str(folder))

    def decide(self, question: Question) -> Decision:
        """What the policies say. Never raises: whatever goes wrong is a deny that says so."""
        action = BY_NAME.get(question.action)
        if action is None or question.kind not in action.kinds:
            return Decision(False, problem=f"there is no action {question.action} on a {question.kind}")
        if question.form is not None and question.form not in action.forms:
            return Decision(False, problem=f"{question.action} is not done in the form {question.form!r}")
        unknown = question.roles - {*ROLES, *SERVICE_ROLES}
        if unknown:
            return Decision(False, problem=f"there is no role {min(unknown)!r}")
        account = {"type": "Account", "id": question.account}
        roles = [{"type": "Role", "id": role} for role in sorted(question.roles)]
        thing = {"type": question.kind, "id": question.thing}
        facts = question.facts.for_cedar(question.kind)
        known = {name: value for name, value in facts.items() if name not in self._unknown}
        entities: list[dict[Any, Any]] = [
            {"uid": account, "attrs": {"uid": question.uid}, "parents": roles},
            {"uid": thing, "attrs": known, "parents": []},
            *({"uid": role, "attrs": {}, "parents": []} for role in roles),
        ]
        request: dict[str, Any] = {
            "principal": account,
            "action": {"type": "Action", "id": question.action},
            "resource": thing,
            "context": question.consent.for_cedar() if action.gate else {},
        }
        if action.forms:
            request["context"]["form"] = question.form or action.forms[-1]
        try:
            answer = cedarpy.is_authorized(request, self._policies, entities, self._schema)
        except (ValueError, TypeError) as error:
            return Decision(False, problem=f"the question could not be put: {type(error).__name__}")
        told = answer.diagnostics
        named = told.id_annotations_by_reason
        policies = tuple(sorted(named.get(reason, reason) for reason in told.reasons))
        if told.errors or answer.decision is cedarpy.Decision.NoDecision:
            return Decision(False, policies, "the policies could not be evaluated")
        return Decision(answer.decision is cedarpy.Decision.Allow and bool(policies), policies)

    def demand(self, question: Question) -> tuple[Demand, Decision]:
        """What would have to be there for an Allow, and the decision without it."""
        plain = self.decide(replace(question, consent=NO_CONSENT))
        if plain.allowed:
            return Demand.NOTHING, plain
        for demand, consent in ((Demand.APPROVAL, APPROVED), (Demand.SIGNATURE, SIGNED)):
            if self.decide(replace(question, consent=consent)).allowed:
                return demand, plain
        return Demand.DENIED, plain

    def ever(self, question: Question) -> Decision:
        """The decision at its best: on the mildest thing, be it another's or their own, approved, in any form. Denied
        here is denied always."""
        action = BY_NAME.get(question.action)
        best = replace(question, facts=MILDEST, consent=SIGNED)
        forms = (action.forms if action is not None and question.form is None else ()) or (question.form,)
        whose = [MILDEST]
        if question.kind in OF_SOMEBODY:
            whose.append(replace(MILDEST, requester=question.uid))
        answers = [
            self.decide(replace(best, form=form, facts=facts)) for form, facts in product(forms, whose)
        ]
        return next((answer for answer in answers if answer.allowed), answers[0])

    def by_id(self, policy_id: str) -> PolicyText | None:
        """The policy of that id."""
        return next((policy for policy in self.policies if policy.id == policy_id), None)

    def source(self, policy_id: str) -> str | None:
        """That policy as its file has it, with the comment right above it."""
        policy = self.by_id(policy_id)
        if policy is None:
            return None
        text, at = self.files[policy.file], 0
        while found := _TO_THE_END.match(text, at):
            at = found.end()
            before = _BEFORE.match(found[0])
            start = before.end() if before else 0
            stated = json.loads(cedarpy.policies_to_json_str(found[0][start:]))["staticPolicies"]
            if [one["annotations"]["id"] for one in stated.values()] == [policy_id]:
                # What stands on the line of the semicolon before, or above an empty line, is about something else.
                above = found[0][:start] if found.start() == 0 else found[0][:start].partition("\n")[2]
                return re.split(r"\n[ \t]*\n", above)[-1].lstrip() + found[0][start:]
        return None


def default_policies() -> Path:
    """The folder of the policies that ship with Cloister: in the package, or in the checkout it runs from."""
    packaged = Path(__file__).parent / "defaults"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "policies"


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidInput(f"a policy file cannot be read: {error.strerror}", where=str(path)) from None
    if len(raw) > MAX_FILE_BYTES:
        raise InvalidInput(f"a policy file has at most {MAX_FILE_BYTES} bytes", where=str(path))
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise InvalidInput("a policy file is text in UTF-8", where=str(path)) from None


def digest_of(files: Mapping[str, str]) -> str:
    """SHA-256, hex, over the names and contents of a set's files."""
    digest = hashlib.sha256()
    for name, text in sorted(files.items()):
        for part in (name.encode(), text.encode()):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _policies(name: str, text: str, where: str) -> Iterable[PolicyText]:
    try:
        document = json.loads(cedarpy.policies_to_json_str(text))
    except ValueError as error:
        raise InvalidInput(f"not Cedar: {str(error)[:400]}", where=f"{where}/{name}") from None
    if document.get("templates"):
        raise InvalidInput("templates are not used here", where=f"{where}/{name}")
    for policy in document["staticPolicies"].values():
        policy_id = policy.get("annotations", {}).get("id") or ""
        if not _ID.fullmatch(policy_id):
            raise InvalidInput(
                'every policy has an @id("..."): small letters, digits and hyphens', where=f"{where}/{name}"
            )
        yield PolicyText(policy_id, policy["effect"], name, json.dumps(policy, sort_keys=True))
