"""One inference: from the durable intent to the durable completion, and its answer on the way.

Who may ask, and for what, is decided before; here the engine is asked and its answer passed on.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Final

from cloister.api import BodiesPolicy
from cloister.errors import LedgerUnavailable
from cloister.gateway import refusal
from cloister.gateway.answer import DONE, EventReader, Tally, engine_refusal
from cloister.gateway.directory import Caller, Target
from cloister.gateway.engine_pool import (
    AnswerTooLarge,
    EngineLost,
    EnginePool,
    EngineTimeout,
    EngineUnreachable,
    Exchange,
)
from cloister.gateway.journal import Journal, Outcome
from cloister.gateway.keeping import Keeper
from cloister.gateway.limits import Limits
from cloister.gateway.refusal import Refusal
from cloister.gateway.reply import ClientGone, Receive, Reply
from cloister.gateway.request import Inference

_ENGINE_PATH: Final = {"chat": "/v1/chat/completions", "text": "/v1/completions"}


class _Presence:
    """Watches whether the client is still there, and aborts the exchange with the engine when it is not."""

    def __init__(self, receive: Receive, exchange: Exchange) -> None:
        self.gone = False
        self._receive = receive
        self._exchange = exchange
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.leave()

    def leave(self) -> None:
        self.gone = True
        self._exchange.abort()

    def end(self) -> None:
        self._task.cancel()


class Passage:
    """The way of one admitted request through an engine."""

    def __init__(
        self,
        journal: Journal,
        engines: EnginePool,
        limits: Limits,
        reply: Reply,
        keeper: Keeper,
        policy: BodiesPolicy,
    ) -> None:
        self._journal = journal
        self._engines = engines
        self._limits = limits
        self._reply = reply
        self._keeper = keeper
        self._policy = policy
        self._answer = bytearray()
        """What the client has been sent of a stream, where answers are kept."""

    async def run(
        self, caller: Caller, target: Target, wanted: Inference, message: bytes, receive: Receive
    ) -> None:
        """From the durable intent to the durable completion; whatever happens, one completion is tried."""
        begun = monotonic()
        outcome = Outcome()
        tally = Tally(wanted.model, wanted.choices)
        exchange = self._engines.post(
            target.socket, _ENGINE_PATH[wanted.route], message, request_id=self._reply.request_id
        )
        presence = _Presence(receive, exchange)
        failure: Refusal | None = None
        whole, held = b"", b""
        try:
            status = await exchange.status()
            if status != 200:
                raise engine_refusal(status, await exchange.read(1 << 16), target.max_model_len)
            if wanted.stream:
                held = await self._relay(exchange, tally, presence, wanted)
            else:
                whole = tally.whole(await exchange.read(self._limits.answer_bytes))
            outcome.status = 200
        except Refusal as refused:
            failure = refused
        except EngineUnreachable:
            failure = refusal.engine_stopped()
        except EngineTimeout:
            failure = refusal.engine_slow()
        except AnswerTooLarge:
            failure = refusal.engine_failed()
        except EngineLost:
            failure = None if presence.gone else refusal.engine_stopped()
        except ClientGone:
            pass
        except asyncio.CancelledError:
            failure = Refusal(503, "shutdown", "The gateway is shutting down.", close=True)
        finally:
            presence.end()
            exchange.close()
        if presence.gone:
            outcome.status, outcome.reason = 499, "client-gone"
        elif failure is not None:
            outcome.status, outcome.reason = failure.status, failure.code
        outcome.prompt_tokens, outcome.completion_tokens = tally.prompt_tokens, tally.completion_tokens
        outcome.finish_reason = tally.finish_reason
        outcome.events = tally.events if wanted.stream else None
        outcome.duration_ms = int((monotonic() - begun) * 1000)
        try:
            if self._policy.answers:
                self._answer += whole or held
            digests = await self._keeper.keep(self._policy, "answer", bytes(self._answer))
            await self._journal.completed(
                self._reply.request_id, caller.client_id, target, outcome, digests=digests
            )
        except LedgerUnavailable:
            if not self._reply.started:
                await self._reply.send_error(refusal.ledger_failed())
            return  # a stream that has begun is cut without its end
        if presence.gone:
            return
        if failure is not None:
            if not self._reply.started:
                await self._reply.send_error(failure, close=failure.close)
            else:
                await self._reply.send_block(b"data: " + failure.body() + b"\n\n", last=True)
        elif wanted.stream:
            await self._reply.begin_stream()
            await self._reply.send_block(held + DONE, last=True)
        else:
            await self._reply.send_whole(200, whole)

    async def _relay(self, exchange: Exchange, tally: Tally, presence: _Presence, wanted: Inference) -> bytes:
        """Pass events on as they come. Returns the last ones, which wait for the completion entry."""
        reader = EventReader(self._limits.event_bytes)
        held = bytearray()
        while True:
            block = await exchange.block()
            if not block:
                raise refusal.engine_failed()
            passed = bytearray()
            done = False
            fault: Refusal | None = None
            try:
                for data in reader.feed(block):
                    if data == b"[DONE]":
                        done = True
                        break
                    event = tally.event(data, usage=wanted.include_usage)
                    if tally.finished:
                        held += event
                    else:
                        passed += event
            except Refusal as found:
                fault = found
            if passed:
                await self._reply.begin_stream()
                self._remember(passed)
                try:
                    async with asyncio.timeout(self._limits.write_s):
                        await self._reply.send_block(bytes(passed), last=False)
                except TimeoutError:
                    presence.leave()
                    raise ClientGone from None
            if fault is not None:
                raise fault
            if len(held) > self._limits.event_bytes:
                raise refusal.engine_failed()
            if done:
                await self._drain(exchange)
                return bytes(held)

    def _remember(self, piece: bytes | bytearray) -> None:
        """Raises Refusal (502) where an answer that is to be kept grows beyond its bound."""
        if self._policy.answers:
            self._answer += piece
            if len(self._answer) > self._limits.answer_bytes:
                raise refusal.engine_failed()

    async def _drain(self, exchange: Exchange) -> None:
        """Take the end of the engine's body, so that its connection can be used again."""
        if await exchange.block():
            raise refusal.engine_failed()
