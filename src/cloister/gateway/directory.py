"""Who may ask for what, and where it runs: the authority's view, held in memory.

Looks up a key by its keyed hash and a deployment by its name, and says whether what it holds is still
fresh. Does not know how the view arrives.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

from cloister.api import BodiesPolicy, Deployment, DeploymentState, GatewayView


@dataclass(frozen=True, slots=True)
class Caller:
    """A client application. `deployments` are names, empty means all; `expires_at` is in epoch seconds."""

    client_id: str
    deployments: frozenset[str]
    expires_at: float | None

    def may_use(self, deployment: str) -> bool:
        return not self.deployments or deployment in self.deployments


@dataclass(frozen=True, slots=True)
class Target:
    """A deployment as the gateway sees it. `ready` means that its engine answers at `socket`."""

    deployment_id: str
    name: str
    model: str
    socket: str
    ready: bool
    max_model_len: int
    created: int


class Directory:
    """The newest view, replaced as a whole.

    Args:
        monotonic: seconds that only grow, for freshness.
        now: seconds of the epoch, for a key's expiry.
    """

    def __init__(self, *, monotonic: Callable[[], float], now: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._now = now
        self._callers: MappingProxyType[str, Caller] = MappingProxyType({})
        self._targets: MappingProxyType[str, Target] = MappingProxyType({})
        self._heard_at: float | None = None
        self.seq = 0
        self.bodies = BodiesPolicy()
        """Which bodies are to be kept."""
        self.policy: str | None = None
        """The digest of the policy set in force, for entries."""
        self.sink_dead = False
        """Whether a required audit sink is dead: then no model is asked."""

    def apply(self, view: GatewayView) -> None:
        """Replace everything by `view`."""
        self._callers = MappingProxyType(
            {
                client.key_hash.lower(): Caller(
                    client_id=client.client_id,
                    deployments=frozenset(client.deployments),
                    expires_at=client.expires_at.timestamp() if client.expires_at else None,
                )
                for client in view.clients
                if client.key_hash and client.revoked_at is None
            }
        )
        targets: dict[str, Target] = {}
        for deployment in sorted(view.deployments, key=lambda d: d.created_at):
            target = _target(deployment)
            present = targets.get(target.name)
            if present is None or target.ready or not present.ready:
                targets[target.name] = target
        self._targets = MappingProxyType(targets)
        self.seq = view.seq
        self.bodies = view.bodies
        self.policy = view.policy
        self.sink_dead = bool(view.dead_sinks)

    def revoke(self, client_id: str) -> None:
        """Forget a client's keys at once, ahead of the next view."""
        kept = {digest: caller for digest, caller in self._callers.items() if caller.client_id != client_id}
        self._callers = MappingProxyType(kept)

    def heard(self) -> None:
        """The authority has just said something, and what is held is up to it."""
        self._heard_at = self._monotonic()

    def fresh(self, within_s: float) -> bool:
        return self._heard_at is not None and self._monotonic() - self._heard_at <= within_s

    def caller(self, api_key: bytes, pepper: bytes) -> Caller | None:
        """The client whose key this is. The look-up is by a keyed hash: its time says nothing of a key."""
        caller = self._callers.get(hmac.digest(pepper, api_key, "sha256").hex())
        if caller is None or (caller.expires_at is not None and caller.expires_at <= self._now()):
            return None
        return caller

    def target(self, name: str) -> Target | None:
        return self._targets.get(name)

    def sockets(self) -> frozenset[str]:
        """Where engines answer."""
        return frozenset(target.socket for target in self._targets.values() if target.ready)

    def targets(self, caller: Caller) -> list[Target]:
        """What `caller` can ask for now, by name."""
        return [t for name, t in sorted(self._targets.items()) if t.ready and caller.may_use(name)]


def _target(deployment: Deployment) -> Target:
    return Target(
        deployment_id=deployment.deployment_id,
        name=deployment.name,
        model=deployment.model,
        socket=deployment.socket or "",
        ready=deployment.state is DeploymentState.READY and bool(deployment.socket),
        max_model_len=deployment.config.max_model_len,
        created=int(deployment.created_at.timestamp()),
    )
