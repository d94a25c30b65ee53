"""The stream of events: ten followers through restarts and kills of the authority miss none and hear none twice."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from tests.conftest import PASSPHRASE, Appliance

from cloister import embedded
from cloister.api import ClientRequest
from cloister.client import Client
from cloister.errors import CloisterError, InvalidInput

FOLLOWERS = 10


class Follower(threading.Thread):
    """Reads on from the last number that it has, whenever the stream breaks off."""

    def __init__(self, socket: Path) -> None:
        super().__init__(daemon=True)
        self.socket = socket
        self.seen: list[int] = []
        self.breaks = 0
        self.wanted: int | None = None

    def run(self) -> None:
        while self.wanted is None or not self.seen or self.seen[-1] < self.wanted:
            with suppress(CloisterError), Client(self.socket) as client:
                for event in client.events(self.seen[-1] if self.seen else 0):
                    self.seen.append(event.seq)
                    if self.wanted is not None and event.seq >= self.wanted:
                        return
            self.breaks += 1
            time.sleep(0.02)


def restarts(appliance: Appliance, times: int) -> None:
    generator = random.Random(times)
    followers = [Follower(appliance.home.authority_socket) for _ in range(FOLLOWERS)]
    for follower in followers:
        follower.start()
    for number in range(times):
        for one in range(generator.randrange(3)):
            with suppress(CloisterError):
                appliance.client.issue_client(ClientRequest(name=f"c{number}-{one}"))
        pid = embedded.listener_pid(appliance.home.authority_socket)
        assert pid is not None
        os.kill(pid, generator.choice([signal.SIGKILL, signal.SIGTERM]))
        embedded.await_end(pid)
        embedded.start(appliance.home, gateway=False)
        appliance.client.unlock(PASSPHRASE)
        time.sleep(generator.uniform(0, 0.2))
    last = appliance.client.status().last_seq
    for follower in followers:
        follower.wanted = last
    appliance.client.issue_client(ClientRequest(name="the-end"))  # wakes those who have everything
    for follower in followers:
        follower.join(120)
        assert not follower.is_alive()
        assert follower.seen[: follower.seen.index(last) + 1] == list(range(1, last + 1))
    # A follower is away at most while the authority is; a fast restart may break its stream only once.
    assert all(follower.breaks >= min(times, 1) for follower in followers)
    print(f"soak: restarts={times} followers={FOLLOWERS} events={last}")


def test_followers_miss_nothing_over_a_few_restarts(appliance: Appliance) -> None:
    restarts(appliance, 4)


@pytest.mark.soak
def test_followers_miss_nothing_over_two_hundred_restarts(appliance: Appliance) -> None:
    restarts(appliance, 200)


def test_a_number_that_no_event_can_have_is_bad_input(appliance: Appliance) -> None:
    with pytest.raises(InvalidInput, match="after"):
        next(appliance.client.events(1 << 70))


def test_a_reader_goes_on_after_the_last_id_that_it_names(appliance: Appliance) -> None:
    appliance.client.issue_client(ClientRequest(name="somebody"))
    last = appliance.client.status().last_seq
    transport = httpx.HTTPTransport(uds=str(appliance.home.authority_socket))
    with (
        httpx.Client(transport=transport, base_url="http://authority", timeout=60) as raw,
        raw.stream("GET", "/v1/events", headers={"last-event-id": str(last - 1)}) as answer,
    ):
        assert next(line for line in answer.iter_lines() if line.startswith("id: ")) == f"id: {last}"
