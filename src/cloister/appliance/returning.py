"""Which deployments did not come back, and which would not if their engines had to be started now. It starts none."""

from __future__ import annotations

from collections.abc import Sequence

from cloister.api import Deployment, DeploymentState
from cloister.appliance.engine_starts import EngineStarts, NoLonger
from cloister.errors import ApprovalNeeded, CloisterError, Denied

REFUSED = frozenset({Denied.code, ApprovalNeeded.code})
"""The codes of what a deployment is refused with that would not be let through."""


def failed(deployments: Sequence[Deployment]) -> list[Deployment]:
    """Of all, the oldest first: those that failed, and in whose place nothing has been served since."""
    newest = {deployment.name: deployment for deployment in deployments}
    return [one for one in newest.values() if one.state == DeploymentState.FAILED]


def warnings(deployments: Sequence[Deployment]) -> list[str]:
    """A sentence for each that has ended because it would not be let through."""
    return [
        f"the deployment {one.name} is not served any more: {one.error.detail}; {one.error.remedy}"
        for one in failed(deployments)
        if one.error is not None and one.error.code in REFUSED
    ]


async def doubtful(
    deployments: Sequence[Deployment], starts: EngineStarts
) -> list[tuple[Deployment, CloisterError]]:
    """Those whose engine runs, and would not be started again as things are now; and why not."""
    found = []
    for deployment in deployments:
        try:
            if deployment.state == DeploymentState.READY:
                await starts.still(deployment.deployment_id)
        except NoLonger as refused:
            found.append((deployment, refused.error))
        except CloisterError:
            continue  # it cannot be said now
    return found
