"""The routes about approvals: asked for, given, refused. Nothing is decided here."""

from __future__ import annotations

from fastapi import APIRouter

from cloister.api import Approval, ApprovalDecision
from cloister.appliance.authority import Authority
from cloister.appliance.caller import Caller
from cloister.appliance.guard import may


def approval_routes(authority: Authority) -> APIRouter:
    """The routes over one authority."""
    router = APIRouter(prefix="/v1/approvals")
    register, decisions = authority.approval_register, authority.approval_decisions

    @router.get("", dependencies=[may("approval.list")])
    async def listed() -> list[Approval]:
        return register.listed()

    @router.get("/{approval_id}", dependencies=[may("approval.list")])
    async def one(approval_id: str) -> Approval:
        return register.one(approval_id)

    @router.get("/{approval_id}/verify", dependencies=[may("approval.list")])
    async def verify(approval_id: str) -> Approval:
        return await decisions.verify(approval_id)

    @router.post("/{approval_id}/give", dependencies=[may("approval.give")])
    async def give(peer: Caller, approval_id: str, body: ApprovalDecision) -> Approval:
        return await decisions.give(peer, approval_id, body)

    @router.post("/{approval_id}/refuse", dependencies=[may("approval.refuse")])
    async def refuse(peer: Caller, approval_id: str, body: ApprovalDecision) -> Approval:
        return await decisions.refuse(peer, approval_id, body)

    @router.post("/{approval_id}/withdraw", dependencies=[may("approval.withdraw")])
    async def withdraw(peer: Caller, approval_id: str) -> Approval:
        return await decisions.withdraw(peer, approval_id)

    return router
