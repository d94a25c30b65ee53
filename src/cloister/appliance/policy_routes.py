"""The routes about who may do what: whoami, explain, the table, the set in force. Nothing is decided here."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from fastapi import APIRouter

from cloister.api import (
    PolicyAnswer,
    PolicyCell,
    PolicyProposal,
    PolicyQuestion,
    PolicyRule,
    PolicySetInfo,
    PolicyTable,
    WhoAmI,
)
from cloister.appliance.authority import Authority
from cloister.appliance.caller import Caller
from cloister.appliance.guard import may
from cloister.appliance.peer import peer_named
from cloister.errors import InvalidInput, NotFound
from cloister.policy.actions import ACTIONS, BY_NAME
from cloister.policy.cedar import ROLES, Decision, Demand, PolicySet
from cloister.policy.table import table, who_may
from cloister.policy.things import CLASSIFIED, STRICTEST


def policy_routes(authority: Authority) -> APIRouter:
    """The routes over one authority."""
    router = APIRouter(prefix="/v1")
    guard = authority.guard

    @router.get("/whoami", dependencies=[may("appliance.whoami")])
    async def whoami(peer: Caller) -> WhoAmI:
        who = await guard.standing(peer)
        sole = "sole" in who.roles
        return WhoAmI(
            account=who.account,
            uid=peer.uid,
            roles=list(ROLES) if sole else sorted(who.roles),
            groups=list(who.groups),
            sole=sole,
            actions=[
                action.name
                for action in ACTIONS
                if any(guard.could(peer, who, action.name, kind) for kind in action.kinds)
            ],
            policies=guard.policies.digest,
        )

    @router.post("/policy/explain", dependencies=[may("policy.read")])
    async def explain(peer: Caller, body: PolicyQuestion) -> PolicyAnswer:
        action = BY_NAME.get(body.action)
        if action is None:
            raise NotFound(
                "there is no such action", where=body.action, remedy="`cloister policy table` lists them."
            )
        if body.kind is None and len(action.kinds) > 1:
            raise InvalidInput(f"say on what: {', '.join(action.kinds)}", where=body.action)
        kind = body.kind or action.kinds[0]
        if kind not in action.kinds:
            raise InvalidInput(
                f"not done to a {kind}, but to a {' or '.join(action.kinds)}", where=body.action
            )
        form = body.form or (action.forms[-1] if action.forms else None)
        if form is not None and form not in action.forms:
            raise InvalidInput("it has no such forms", where=body.action, remedy="Leave the form out.")
        asker = peer if body.account is None else await asyncio.to_thread(peer_named, body.account)
        who = await guard.standing(asker)
        question = replace(guard.question(asker, who, action.name, kind, body.thing), form=form)
        if action.name == "deployment.start" and question.facts == STRICTEST:
            # Nothing of that name was ever served: what may be is the model.
            question = replace(
                question, facts=guard.question(asker, who, action.name, "Model", body.thing).facts
            )
        demand, decision = guard.policies.demand(question)
        forbids = _rules(guard.policies, decision, "forbid")
        unmet = demand is Demand.DENIED and not forbids
        return PolicyAnswer(
            account=who.account,
            roles=sorted(who.roles),
            action=action.name,
            kind=kind,
            allowed=decision.allowed,
            policies=list(decision.policies),
            problem=decision.problem,
            roles_that_may=list(who_may(guard.policies, action.name, kind)),
            demand=demand,
            thing=body.thing,
            classification=question.facts.classification if kind in CLASSIFIED else None,
            form=form,
            forbids=forbids,
            permits=_rules(guard.policies, guard.policies.ever(question), "permit") if unmet else [],
            attributes=question.facts.told(kind),
        )

    @router.get("/policy/table", dependencies=[may("policy.read")])
    async def policy_table() -> PolicyTable:
        cells = [
            PolicyCell(
                action=cell.action,
                kind=cell.kind,
                classification=cell.classification,
                role=cell.role,
                demand=cell.demand,
                policies=list(cell.policies),
                form=cell.form,
                situation=cell.situation,
            )
            for cell in await asyncio.to_thread(table, guard.policies)
        ]
        return PolicyTable(digest=guard.policies.digest, cells=cells)

    @router.get("/policy", dependencies=[may("policy.read")])
    async def in_force() -> PolicySetInfo:
        return authority.policy_sets.info()

    @router.post("/policy", dependencies=[may("policy.change")])
    async def propose(peer: Caller, body: PolicyProposal) -> PolicySetInfo:
        return await authority.policy_sets.propose(peer, body)

    return router


def _rules(policies: PolicySet, decision: Decision, effect: str) -> list[PolicyRule]:
    """Of the policies that decided, those of that effect: of a denial those that forbid, of an Allow all."""
    deciding = [policies.by_id(policy_id) for policy_id in decision.policies]
    return [
        PolicyRule(policy_id=policy.id, file=policy.file, source=policies.source(policy.id) or "")
        for policy in deciding
        if policy is not None and policy.effect == effect
    ]
