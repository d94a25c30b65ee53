"""Bodies that were kept: opening one for whoever asked.

The content goes from a sandbox to the caller's own descriptor; the authority hands over the sealed body
and its key, after the entry that says who asked for it, and sees no byte of it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from dataclasses import dataclass, field

import structlog

from cloister.api import (
    BodiesPolicy,
    BodyRequest,
    Failure,
    JobDocument,
    Result,
    RevealConfig,
    RevealResult,
    RevealTicket,
    SandboxSpec,
)
from cloister.appliance.auditing import Auditing
from cloister.appliance.documents import in_memory
from cloister.appliance.ids import new_id
from cloister.appliance.kept_bodies import KeptBodies
from cloister.appliance.parts import Parts
from cloister.appliance.peer import Peer
from cloister.appliance.side import TOKEN_LIFE_S, Delivery, SideSocket
from cloister.appliance.worker_events import parse_event
from cloister.descriptors import close_all
from cloister.errors import CloisterError, Conflict, JobFailed, NotFound, by_code
from cloister.logs import place
from cloister.sandbox import memory_file
from cloister.vault.bodies import SECRET, open_capsule, public_half

log = structlog.get_logger()

LIMIT_S = 300.0
ASKED_S = TOKEN_LIFE_S
KEPT_OUTCOMES = 100


@dataclass(slots=True)
class _Reveal:
    """One body on its way to one account."""

    peer: Peer
    request: BodyRequest
    part: str
    commitment: bytes
    done: asyncio.Future[RevealResult] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    task: asyncio.Task[None] | None = None


class Revealing:
    """One home's bodies."""

    def __init__(self, parts: Parts, auditing: Auditing, bodies: KeptBodies, side: SideSocket) -> None:
        self._parts = parts
        self._bodies = bodies
        self._auditing = auditing
        self._side = side
        self._reveals: dict[str, _Reveal] = {}

    def policy(self) -> BodiesPolicy:
        """What a gateway is to keep, and under which key where the vault is open."""
        settings = self._parts.settings.ledger.bodies
        key = None
        if (settings.prompts or settings.answers) and not self._parts.seal.locked:
            key = base64.b64encode(public_half(self._parts.seal.vault.secret(SECRET))).decode()
        return BodiesPolicy(prompts=settings.prompts, answers=settings.answers, public_key=key)

    # --- revealing -------------------------------------------------------------------------------

    async def ask(self, peer: Peer, request: BodyRequest) -> RevealTicket:
        """A ticket to hand over the descriptor that the body is to be written to.

        Errors: NotFound where the entry has no body, or it was shredded; Locked; LedgerUnavailable.
        """
        _ = self._parts.seal.vault
        self._parts.recorder.require()
        part, commitment = await asyncio.to_thread(self._bodies.committed, request)
        await asyncio.to_thread(self._bodies.fetch, commitment)
        reveal_id = new_id("job")
        if len(self._reveals) >= KEPT_OUTCOMES:
            self._drop(next(iter(self._reveals)))
        self._reveals[reveal_id] = _Reveal(peer, request, part, commitment)
        asyncio.get_running_loop().call_later(ASKED_S, self._expire, reveal_id)
        token = self._side.issue(reveal_id, peer)
        return RevealTicket(
            reveal_id=reveal_id, part=part, token=token, side_socket=str(self._parts.home.side_socket)
        )

    def waits_for(self, reveal_id: str) -> bool:
        return reveal_id in self._reveals

    def deliver(self, delivery: Delivery) -> None:
        """The descriptor has come: enter the reveal, then write. Errors: Conflict."""
        reveal = self._reveals[delivery.job_id]
        if reveal.task is not None or list(delivery.descriptors) != ["output"]:
            raise Conflict("one descriptor, once, is expected", where=delivery.job_id)
        reveal.task = asyncio.create_task(self._reveal(delivery, reveal))
        # Not by the task itself: one that is cancelled before it begins does nothing at all.
        reveal.task.add_done_callback(lambda _: delivery.close())

    async def outcome(self, peer: Peer, reveal_id: str) -> RevealResult:
        """Wait for its end. Errors: what it failed with; NotFound."""
        reveal = self._reveals.get(reveal_id)
        if reveal is None or reveal.peer.uid != peer.uid:
            raise NotFound("nothing is being revealed under this id", where=reveal_id[:64])
        try:
            return await asyncio.shield(reveal.done)
        finally:
            self._drop(reveal_id)

    async def stop(self) -> None:
        for reveal_id in list(self._reveals):
            self._drop(reveal_id)

    async def _reveal(self, delivery: Delivery, reveal: _Reveal) -> None:
        try:
            kept = await asyncio.to_thread(self._bodies.fetch, reveal.commitment)
            origin = self._auditing.origins[reveal.request.ledger]
            secret = self._parts.seal.vault.secret(SECRET)
            key = open_capsule(kept.capsule, secret, reveal.commitment, origin)
            index = await self._parts.recorder.record(
                reveal.peer,
                "audit.reveal",
                digests={reveal.part: reveal.commitment.hex()},
                ledger=reveal.request.ledger,
                index=reveal.request.index,
            )
            config = RevealConfig(
                key=base64.b64encode(key).decode(), commitment=reveal.commitment.hex(), origin=origin
            )
            async with asyncio.timeout(LIMIT_S):
                size = await self._in_a_sandbox(delivery, config, kept.sealed)
            result = RevealResult(part=reveal.part, bytes=size, entry=index)
            if not reveal.done.done():
                reveal.done.set_result(result)
        except (CloisterError, TimeoutError) as error:
            known = error if isinstance(error, CloisterError) else JobFailed("it took too long")
            if not reveal.done.done():
                reveal.done.set_exception(known)
        except Exception as error:
            log.error("reveal.error", reveal=delivery.job_id, cause=place(error))
        finally:
            if not reveal.done.done():
                reveal.done.set_exception(
                    JobFailed("it could not be revealed; the authority's log says where")
                )
            reveal.done.exception()  # whether anybody asks for it or not

    async def _in_a_sandbox(self, delivery: Delivery, config: RevealConfig, sealed: bytes) -> int:
        """Have a worker write it; how many bytes it wrote."""
        settings, launcher, reveal_id = self._parts.settings, self._parts.launcher, delivery.job_id
        document = JobDocument(
            job_id=reveal_id,
            verb="reveal",
            config=config.model_dump(),
            descriptors={"sealed": 3, "output": 4},
            threads=1,
        )
        spec = SandboxSpec(
            sandbox_id=reveal_id,
            program="worker",
            tmp_mib=settings.sandboxes.tmp_mib,
            shm_mib=settings.sandboxes.shm_mib,
            descriptors=("sealed", "output"),
            threads=1,
        )
        memory: list[int] = []
        try:
            memory.append(in_memory(document))
            memory.append(memory_file("body", sealed))
            await launcher.start(spec, [*memory, delivery.descriptors["output"]])
        finally:
            close_all(memory)
        delivery.close()  # the sandbox has its own, and its end is the reader's end of file
        said: Result | Failure | None = None
        try:
            async for event in launcher.follow(reveal_id):
                if event.exit_code is not None:
                    break
                found = parse_event(event.line or "")
                if isinstance(found, Result | Failure):
                    said = found
        except BaseException:
            with contextlib.suppress(CloisterError):
                await launcher.stop(reveal_id, 1.0)
            raise
        finally:
            with contextlib.suppress(CloisterError):
                await launcher.forget(reveal_id)
        if isinstance(said, Result):
            return int(said.values.get("bytes", 0))
        if said is None:
            raise JobFailed("its sandbox ended without a word")
        raise by_code(said.code)(said.message, where=said.where, remedy=said.remedy)

    def _expire(self, reveal_id: str) -> None:
        reveal = self._reveals.get(reveal_id)
        if reveal is not None and reveal.task is None:
            self._drop(reveal_id)

    def _drop(self, reveal_id: str) -> None:
        reveal = self._reveals.pop(reveal_id, None)
        self._side.withdraw(reveal_id)
        if reveal is not None and reveal.task is not None and not reveal.task.done():
            reveal.task.cancel()
