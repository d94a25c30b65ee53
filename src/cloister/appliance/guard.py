"""At the door of every route: may this account do this? Asked of the policy set, refused unless it says yes.

Knows connections and routes; what a policy is it leaves to `policy`, what an action does to the parts.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import structlog
from fastapi import Depends, FastAPI, Request
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Scope

from cloister.appliance.caller import Caller
from cloister.appliance.peer import Peer
from cloister.appliance.recorder import Recorder
from cloister.errors import CloisterError, Denied, NotFound
from cloister.policy import AccessSettings
from cloister.policy.actions import ACTIONS, BY_NAME
from cloister.policy.cedar import Decision, PolicySet, Question
from cloister.policy.roles import Standing, standing
from cloister.policy.table import who_may
from cloister.policy.things import STRICTEST, Facts

log = structlog.get_logger()

QUIET_S = 60.0
"""An account that asks for the same of the same thing again within this time makes no second entry."""
NAMED = 32
"""So many refusals of one account are entered in that time, each thing once; after that each action once."""
KNOWN = 4096
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)


@dataclass
class _Refused:
    """What was refused to an account since `since`, and entered: action and thing; and that there was `more`."""

    since: float
    entered: set[tuple[str, str | None]] = field(default_factory=set)
    more: bool = False


class Guard:
    """Decides for connected accounts, and records what it refuses."""

    def __init__(
        self,
        policies: PolicySet,
        access: AccessSettings,
        recorder: Recorder,
        facts: Callable[[str, str], Facts],
    ) -> None:
        self.policies = policies
        self._access = access
        self._facts = facts
        self._recorder = recorder
        self._own_uid = os.geteuid()
        self._refused: dict[int, _Refused] = {}

    async def standing(self, peer: Peer) -> Standing:
        """The account's roles, by the system's groups at this moment."""
        if not self._access.roles:  # no group is looked up
            return standing(peer.uid, self._access, own_uid=self._own_uid)
        # The system may ask a directory over a network for them.
        return await asyncio.to_thread(standing, peer.uid, self._access, own_uid=self._own_uid)

    async def has_role(self, peer: Peer) -> bool:
        """Whether the account is anybody here."""
        return bool((await self.standing(peer)).roles)

    def question(self, peer: Peer, who: Standing, action: str, kind: str, thing: str | None) -> Question:
        """About a thing of that name or id; about the strictest of its kind where none is named."""
        facts = STRICTEST if thing is None else self._facts(kind, thing)
        return Question(who.account, who.roles, action, kind, thing or "any", uid=peer.uid, facts=facts)

    def could(self, peer: Peer, who: Standing, action: str, kind: str) -> bool:
        """Whether this account could ever do it, if only with an approval, or to the mildest of its kind."""
        return self.policies.ever(self.question(peer, who, action, kind, None)).allowed

    async def require(self, peer: Peer, action: str, kind: str, thing: str | None = None) -> None:
        """Errors: Denied, which says who may. The refusal is entered into the ledger.

        Of a gate, and of what its request tells of, it asks only whether the account could ever do it: `Approvals`,
        or the part that looks it up with `require_of`, decides on the thing.
        """
        who = await self.standing(peer)
        question = self.question(peer, who, action, kind, thing)
        later = BY_NAME[action].gate or BY_NAME[action].told
        decision = self.policies.ever(question) if later else self.policies.decide(question)
        if not decision.allowed:
            await self.deny(peer, who, action, kind, thing, decision)

    async def require_of(self, peer: Peer, action: str, kind: str, thing: str, facts: Facts) -> None:
        """About a thing that is yet to be, of which these facts are known. Errors: Denied, as of `require`."""
        who = await self.standing(peer)
        question = Question(who.account, who.roles, action, kind, thing, uid=peer.uid, facts=facts)
        decision = self.policies.decide(question)
        if not decision.allowed:
            await self.deny(peer, who, action, kind, thing, decision)

    async def require_route(self, scope: Scope, peer: Peer) -> None:
        """What the route of this request asks for, where its answer is given in the route's place. Errors: Denied."""
        for route in scope["app"].routes:
            match, found = route.matches(scope)
            if match is Match.FULL:
                request = Request({**scope, **found})
                for one in route.dependencies:
                    await one.dependency(request, peer)
                return
        raise NotFound("there is no such route", where=str(scope["path"])[:100])

    async def deny(
        self, peer: Peer, who: Standing, action: str, kind: str, thing: str | None, decision: Decision
    ) -> NoReturn:
        """Enter a refusal and raise it."""
        await self._record(peer, who, action, kind, thing, decision)
        roles = who_may(self.policies, action, kind)
        named = ", ".join(sorted(who.roles)) or "no role"
        if not roles:
            remedy = "See `cloister policy table`."
        elif who.roles & {*roles, "sole"}:  # it is not the role
            remedy = f"Not this one: {', '.join(decision.policies) or 'no policy permits it'}."
        else:
            remedy = f"The role {' or '.join(roles)} may."
        raise Denied(
            f"{who.account} ({named}) may not {BY_NAME[action].summary}", where=action, remedy=remedy
        )

    async def _record(
        self, peer: Peer, who: Standing, action: str, kind: str, thing: str | None, decision: Decision
    ) -> None:
        """Enter a refusal, each thing once a minute, and no more of one account than a ledger bears."""
        now = time.monotonic()
        if peer.uid not in self._refused and len(self._refused) >= KNOWN:
            self._refused.clear()
        refused = self._refused.setdefault(peer.uid, _Refused(now))
        if now - refused.since >= QUIET_S:
            refused = self._refused[peer.uid] = _Refused(now)
        # What is not a name here may be anything that somebody has typed.
        named = thing if thing is not None and _NAME.fullmatch(thing) else None
        if (action, named) in refused.entered:
            return
        details: dict[str, Any] = {"kind": kind, "thing": named}
        over = len(refused.entered) >= NAMED and any(action == entered for entered, _ in refused.entered)
        if over and refused.more:
            return
        if over:
            refused.more = True
            details["more"] = f"what else is refused to it within {QUIET_S:g} s is not named"
        refused.entered.add((action, named))
        reason = decision.problem or ", ".join(decision.policies) or "no policy permits it"
        try:
            await self._recorder.record(
                peer,
                "access.deny",
                decision="deny",
                reason=reason,
                asked=action,
                roles=sorted(who.roles),
                **details,
            )
        except CloisterError as error:  # it stays refused all the same
            refused.entered.discard((action, named))
            refused.more = refused.more and not over
            log.warning("access.deny", action=action, uid=peer.uid, cause=error.message)


def may(action: str, kind: str | None = None) -> Any:
    """A route's dependency: the caller may do `action`, to a thing of `kind` (default: the action's only one)."""
    kinds = BY_NAME[action].kinds
    if kind is None:
        (kind,) = kinds
    elif kind not in kinds:
        raise ValueError(f"{action} is not done to a {kind}")
    return _dependency(lambda request: (action, kind), {action})


def may_by(collections: Mapping[str, tuple[str, str]]) -> Any:
    """Like `may`, for a route whose `collection` says what it is about: (action, kind) by its name."""

    def asked(request: Request) -> tuple[str, str]:
        collection = request.path_params["collection"]
        if collection not in collections:
            raise NotFound("there is no such collection", where=collection[:64])
        return collections[collection]

    return _dependency(asked, {action for action, _ in collections.values()})


def _dependency(asked: Callable[[Request], tuple[str, str]], actions: set[str]) -> Any:
    async def check(request: Request, peer: Caller) -> None:
        action, kind = asked(request)
        things = [request.path_params[name] for name in THINGS if name in request.path_params]
        guard: Guard = request.app.state.guard
        await guard.require(peer, action, kind, things[0] if things else None)

    check.actions = actions  # type: ignore[attr-defined]
    return Depends(check)


THINGS = ("reference", "job_id", "backup_id", "shred_id", "reveal_id", "slot", "approval_id")
"""The path parameters that name a thing."""


def actions_of(route: APIRoute) -> set[str]:
    """The actions a route asks for."""
    checks: list[Callable[..., Awaitable[None]]] = [one.dependency for one in route.dependencies]  # type: ignore[misc]
    return set().union(*(getattr(check, "actions", set()) for check in checks))


def require_guarded(app: FastAPI) -> None:
    """Raises RuntimeError where a route asks for no action, or an action has no route: a fault in the code."""
    routes = [route for route in app.routes if isinstance(route, APIRoute)]
    unguarded = [str(getattr(route, "path", route)) for route in app.routes if route not in routes]
    unguarded += [route.path for route in routes if not actions_of(route)]
    idle = {action.name for action in ACTIONS} - set().union(*map(actions_of, routes))
    if unguarded or idle:
        raise RuntimeError(f"routes without an action: {unguarded}; actions without a route: {sorted(idle)}")
