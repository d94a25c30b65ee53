"""Whether an engine may be started at this moment: by the approval that it is served under, and by the memory there is.

It starts none.
"""

from __future__ import annotations

from sqlalchemy import select

from cloister.api import ServeConfig, ServeRequest
from cloister.appliance.approvals import Approvals, Pass
from cloister.appliance.parts import Parts
from cloister.appliance.peer import asker
from cloister.appliance.room import Need, Room, need_of_engine
from cloister.appliance.state import DeploymentRow, ObjectRow
from cloister.errors import CloisterError, Unavailable


class NoLonger(Exception):
    """A deployment that would not be let through as things are now; `error` says why."""

    def __init__(self, error: CloisterError) -> None:
        super().__init__(error.code)
        self.error = error


class TooLarge(Unavailable):
    """An engine that this machine's memory could not hold if it did nothing else."""


def serve_again(model: str, name: str, config: ServeConfig) -> str:
    """The command that asks for the same once more."""
    return f"cloister serve start {model} --name {name} --max-model-len {config.max_model_len}"


class EngineStarts:
    """Asked before each start of an engine. Knows what those that have not answered yet will still take."""

    def __init__(self, parts: Parts, approvals: Approvals, room: Room) -> None:
        self._state = parts.state
        self._devices = parts.devices
        self._approvals = approvals
        self._room = room
        self._starting: dict[str, Need] = {}

    async def still(self, deployment_id: str) -> Pass:
        """Whether whoever asked for it might start it now, under the approval that it was started under.

        Errors: NoLonger; Unavailable where that cannot be found out now.
        """
        with self._state.read() as session:
            row = session.get_one(DeploymentRow, deployment_id)
        config = ServeConfig.model_validate(row.config)
        command = serve_again(row.model, row.name, config)
        try:
            return await self._approvals.still(
                asker(row.asked_by, row.created_by),
                "deployment.start",
                ServeRequest(name=row.name, model=row.model, config=config).model_dump(mode="json"),
                remedy=f"`{command}`, by whoever may, asks for what it takes.",
                under=row.approval,
            )
        except Unavailable:
            raise
        except CloisterError as error:
            raise NoLonger(error) from None

    def require_possible(self, deployment_id: str) -> None:
        """Errors: TooLarge."""
        why = self._room.never(self._need(deployment_id, self._devices.places[0]))
        if why is not None:
            raise TooLarge(
                f"the engine {why}",
                where=deployment_id,
                remedy="Serve a smaller model, or use a larger machine.",
            )

    def require_room(self, deployment_id: str, device: str) -> None:
        """That it fits now, beside the engines that are starting. It counts as one of them until `settled`.

        Errors: Unavailable.
        """
        self.settled(deployment_id)
        need = self._need(deployment_id, device)
        lacks = self._room.lacks(need, sum(self._starting.values(), Need()))
        if lacks is not None:
            raise Unavailable(
                f"the engine waits for {lacks}",
                where=deployment_id,
                remedy="It starts by itself once there is room; see `cloister status` for what runs.",
            )
        self._starting[deployment_id] = need

    def settled(self, deployment_id: str) -> None:
        """It has the memory that it takes, or takes none."""
        self._starting.pop(deployment_id, None)

    def _need(self, deployment_id: str, device: str) -> Need:
        with self._state.read() as session:
            row = session.get_one(DeploymentRow, deployment_id)
            model = session.scalars(select(ObjectRow).where(ObjectRow.object_id == row.model)).one()
        return need_of_engine(ServeConfig.model_validate(row.config), model.sealed_bytes, device)
