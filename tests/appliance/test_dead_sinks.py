"""A required sink that is dead, for real: the authority sends, the gateway hears of it and asks no model."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from tests.conftest import LOOPBACK, Appliance, start_appliance
from tests.ledger.syslog_receivers import StreamReceiver

from cloister import embedded
from cloister.api import ClientRequest, LedgerEntry

ASK = {"model": "claims", "messages": [{"role": "user", "content": "hello"}]}


def wait_until(condition: Callable[[], object], patience_s: float = 60.0) -> None:
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


@pytest.fixture
def siem() -> Iterator[StreamReceiver]:
    """A syslog receiver at a port of its own."""
    receiver = StreamReceiver()
    receiver.start()
    yield receiver
    receiver.kill()


@pytest.fixture
def appliance(siem: StreamReceiver) -> Iterator[Appliance]:
    """Authority and gateway that need it."""
    root = Path(tempfile.mkdtemp(prefix="ds"))
    (root / "home").mkdir(mode=0o700)
    (root / "home" / "appliance.yaml").write_text(
        "ledger:\n  sinks:\n"
        f"    - {{name: siem, to: 'tcp://127.0.0.1:{siem.port}', required: true, grace_s: 0, resend_s: 0}}\n"
    )
    started = start_appliance(root / "home")
    yield started
    started.client.close()
    embedded.stop(started.home)
    shutil.rmtree(root)


def test_a_dead_receiver_holds_requests_up_until_it_is_back(
    appliance: Appliance, siem: StreamReceiver
) -> None:
    client = appliance.client
    key = client.issue_client(ClientRequest(name="desk")).api_key

    def answer(path: str = "/chat/completions") -> tuple[int, str]:
        """Status and code. There is no model here: one that may be asked for is not found."""
        url = f"{client.status().gateway_url}/v1{path}"
        headers = {"authorization": f"Bearer {key}"}
        said = (
            httpx.get(url, headers=headers, timeout=60)
            if path == "/models"
            else httpx.post(url, json=ASK, headers=headers, timeout=60)
        )
        return said.status_code, said.json().get("error", {}).get("code", "")

    dead, alive = (503, "audit_sink_dead"), (404, "model_not_found")
    wait_until(lambda: answer() == alive)
    siem.kill()
    wait_until(lambda: answer() == dead)
    assert answer("/models")[0] == 200

    def entered() -> list[LedgerEntry]:
        found = client.search_ledger(100, ledger="gateway", action="inference.refused").entries
        return [entry for entry in found if (entry.details["status"], entry.reason) == dead]

    wait_until(entered)
    request_id = str(entered()[0].details["request_id"])

    gateway = embedded.gateway_pid(appliance.home)
    assert gateway is not None
    os.kill(gateway, signal.SIGKILL)
    embedded.await_end(gateway)
    embedded.start(appliance.home, listen=LOOPBACK)
    wait_until(lambda: answer("/models")[0] == 200)
    assert answer() == dead

    appliance.restart_authority()
    wait_until(lambda: answer("/models")[0] == 200)
    assert answer() == dead

    siem.start()
    wait_until(lambda: answer() == alive)
    wait_until(lambda: any(request_id.encode() in message for message in siem.messages))
    siem.kill()
    wait_until(lambda: answer() == dead)
    client.revoke_client("desk")
    wait_until(lambda: answer("/models")[0] == 401)
