"""Tokens of the side socket: once, by whom they were issued to, and not for ever."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from pathlib import Path

import pytest

from cloister.appliance.peer import Peer
from cloister.appliance.side import TOKEN_LIFE_S, Delivery, SideSocket

HERE = Peer(os.getpid(), os.getuid(), os.getgid())


class Side:
    """A side socket whose clock stands still."""

    def __init__(self, path: Path) -> None:
        self.now = 1000.0
        self.taken: list[str] = []
        self.socket = SideSocket(path, self._take, clock=lambda: self.now)
        self.path = path

    def _take(self, delivery: Delivery) -> None:
        self.taken.append(delivery.job_id)
        delivery.close()

    async def hand_over(self, token: str) -> str:
        """Deliver one descriptor; `ok`, or the code of the refusal."""

        def say() -> str:
            with socket.socket(socket.AF_UNIX) as connection, open(os.devnull) as null:
                connection.settimeout(60)
                connection.connect(str(self.path))
                message = json.dumps({"token": token, "roles": ["source"]}).encode() + b"\n"
                socket.send_fds(connection, [message], [null.fileno()])
                answer = json.loads(connection.recv(4096))
            return "ok" if answer["ok"] else str(answer["code"])

        return await asyncio.to_thread(say)


def side(tmp_path: Path) -> Side:
    return Side(tmp_path / "side.sock")


@pytest.mark.parametrize(("after", "answer"), [(TOKEN_LIFE_S - 1, "ok"), (TOKEN_LIFE_S, "denied")])
def test_a_token_opens_nothing_once_its_time_is_over(tmp_path: Path, after: float, answer: str) -> None:
    here = side(tmp_path)

    async def go() -> None:
        here.socket.start()
        try:
            token = here.socket.issue("jb-000000000001", HERE)
            here.now += after
            assert await here.hand_over(token) == answer
            assert await here.hand_over(token) == "denied", "once"
        finally:
            await here.socket.stop()

    asyncio.run(go())
    assert here.taken == (["jb-000000000001"] if answer == "ok" else [])


def test_tokens_that_nobody_used_are_forgotten(tmp_path: Path) -> None:
    here = side(tmp_path)
    for number in range(1000):
        here.socket.issue(f"jb-{number:012d}", HERE)
        here.now += 1
    assert len(here.socket._tokens) <= TOKEN_LIFE_S
    here.now += TOKEN_LIFE_S
    here.socket.issue("jb-000000009999", HERE)
    assert len(here.socket._tokens) == 1


def test_another_accounts_token_opens_nothing(tmp_path: Path) -> None:
    here = side(tmp_path)

    async def go() -> None:
        here.socket.start()
        try:
            token = here.socket.issue("jb-000000000001", Peer(1, HERE.uid + 1, 0))
            assert await here.hand_over(token) == "denied"
            assert here.socket._tokens, "and is still theirs"
        finally:
            await here.socket.stop()

    asyncio.run(go())
