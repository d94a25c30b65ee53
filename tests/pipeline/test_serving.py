"""The served model through OpenAI's own client, with the real engine behind the real gateway."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from tests.conftest import Appliance
from tests.pipeline.conftest import CANARY, Pipeline

from cloister import embedded
from cloister.api import DeploymentState
from cloister.demo.search import find_leaks
from cloister.ledger import Ledger
from cloister.verifier import verify_log

pytestmark = pytest.mark.slow


def client_of(pipeline: Pipeline, key: str | None = None) -> openai.OpenAI:
    http = httpx.Client(trust_env=False, timeout=120)
    return openai.OpenAI(
        base_url=f"{pipeline.url}/v1", api_key=key or pipeline.api_key, max_retries=0, http_client=http
    )


def wait_for_key(pipeline: Pipeline) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            if client_of(pipeline).models.list().data:
                return
        except openai.APIStatusError:
            pass
        time.sleep(0.1)
    pytest.fail("the gateway never learnt the key and the deployment")


def gateway_entries(pipeline: Pipeline) -> list[dict[str, Any]]:
    """The gateway's ledger as it lies on disk, read from a copy so that its writer is not disturbed."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(100):
            copy = f"{folder}/{number}"
            try:
                shutil.copytree(pipeline.appliance.home.gateway_ledger, copy)
                break
            except shutil.Error:  # a partial tile was replaced meanwhile
                time.sleep(0.05)
        origin = (Path(copy) / "vkey").read_text().split("+")[0]
        with Ledger.open(Path(copy), origin=origin, signer=None) as ledger:
            return list(ledger.entries(0, ledger.size))


def test_an_answer_and_a_streamed_answer_agree(pipeline: Pipeline, claims: list[dict[str, Any]]) -> None:
    wait_for_key(pipeline)
    client = client_of(pipeline)
    messages = claims[0]["messages"][:-1]
    # What an engine has read once it does not read again: both are answers of one that has, in the same way.
    client.chat.completions.create(model="claims", messages=messages, temperature=0, max_tokens=1)
    whole = client.chat.completions.create(model="claims", messages=messages, temperature=0, max_tokens=64)
    chunks = client.chat.completions.create(
        model="claims", messages=messages, temperature=0, max_tokens=64, stream=True
    )
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert streamed == whole.choices[0].message.content
    assert whole.usage is not None and whole.usage.completion_tokens > 0


def test_refusals_have_a_status_and_an_entry(pipeline: Pipeline) -> None:
    wait_for_key(pipeline)
    messages: Any = [{"role": "user", "content": "hello"}]
    with pytest.raises(openai.AuthenticationError):
        client_of(pipeline, "clo-wrong").chat.completions.create(model="claims", messages=messages)
    with pytest.raises(openai.BadRequestError) as refused:
        client_of(pipeline).chat.completions.create(
            model="claims", messages=messages, extra_body={"cache_salt": "mine"}
        )
    assert "cache_salt" in str(refused.value)
    with pytest.raises(openai.NotFoundError):
        client_of(pipeline).chat.completions.create(model="nothing", messages=messages)
    end = time.monotonic() + 120  # refusals of strangers are counted, and entered every ten seconds
    while not all(status in str(gateway_entries(pipeline)) for status in ("401", "400", "404")):
        assert time.monotonic() < end
        time.sleep(1)


def test_every_request_has_its_intent_and_its_completion(pipeline: Pipeline) -> None:
    wait_for_key(pipeline)
    before = len(gateway_entries(pipeline))
    client_of(pipeline).chat.completions.create(
        model="claims", messages=[{"role": "user", "content": "hello"}], max_tokens=4
    )
    added = [entry["action"] for entry in gateway_entries(pipeline)[before:]]
    assert any("intent" in action or "request" in action for action in added)
    assert any("complet" in action for action in added)


def test_a_restart_of_the_authority_cuts_no_stream(pipeline: Pipeline) -> None:
    wait_for_key(pipeline)
    stream = client_of(pipeline).completions.create(
        model="claims", prompt="a b c d e", max_tokens=400, temperature=1.5, seed=3, stream=True
    )
    finish = None
    for number, chunk in enumerate(stream):
        if number == 2:
            pipeline.appliance.restart_authority()
        finish = chunk.choices[0].finish_reason or finish if chunk.choices else finish
    assert finish is not None
    wait_for_key(pipeline)
    assert [d.state for d in pipeline.appliance.client.status().deployments] == [DeploymentState.READY]


class Load:
    """A client that asks without a pause while the block runs: what it was answered, and how it was refused."""

    def __init__(self, pipeline: Pipeline, *, stop_at_refusal: bool = False) -> None:
        self.answered: list[str] = []
        self.refused: list[int] = []
        self._client = client_of(pipeline)
        self._stop_at_refusal = stop_at_refusal
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._stop.is_set():
            try:
                raw = self._client.chat.completions.with_raw_response.create(
                    model="claims", messages=[{"role": "user", "content": "hello"}], max_tokens=3
                )
            except openai.OpenAIError as error:
                self.refused.append(getattr(error, "status_code", 0))
                if self._stop_at_refusal:
                    return
                time.sleep(0.02)
            else:
                self.answered.append(raw.headers["x-request-id"])


def check_gateway_ledger(pipeline: Pipeline, answered: list[str]) -> None:
    """Every answer that a client got whole has its intent and its completion, and the ledger verifies."""
    text = [str(entry) for entry in gateway_entries(pipeline)]
    for request_id in answered:
        assert sum(f"'{request_id}'" in entry for entry in text) == 2, request_id
    folder = pipeline.appliance.home.gateway_ledger
    assert not verify_log(folder, (folder / "vkey").read_text().strip()).problems


@pytest.mark.parametrize("kills", [1, pytest.param(10, marks=pytest.mark.soak)])
def test_a_killed_engine_comes_back_by_itself(pipeline: Pipeline, kills: int) -> None:
    """Requests are refused with 502 or 503 meanwhile, never answered by half and never left hanging."""
    generator = random.Random(kills)
    client = pipeline.appliance.client
    answered = 0
    for number in range(kills):
        wait_for_key(pipeline)
        before = client.status().deployments[0]
        with Load(pipeline) as load:
            time.sleep(generator.uniform(0.2, 3))
            pids = engine_pids(pipeline.appliance, before.deployment_id)
            assert pids
            os.kill(pids[-1], 9)
            for _ in range(1200):
                found = client.status().deployments[0]
                if found.restarts > before.restarts and found.state == DeploymentState.READY:
                    break
                time.sleep(0.2)
            else:
                pytest.fail(f"the engine did not come back after kill {number + 1}")
        assert load.refused and set(load.refused) <= {502, 503}
        wait_for_key(pipeline)
        client_of(pipeline).chat.completions.create(
            model="claims", messages=[{"role": "user", "content": "hello"}], max_tokens=2
        )
        check_gateway_ledger(pipeline, load.answered)
        answered += len(load.answered)
    print(f"soak: kills={kills} answered={answered}")


@pytest.mark.parametrize("kills", [1, pytest.param(10, marks=pytest.mark.soak)])
def test_a_killed_gateway_answers_nothing_unrecorded(pipeline: Pipeline, kills: int) -> None:
    generator = random.Random(kills)
    home = pipeline.appliance.home
    answered = 0
    for _ in range(kills):
        wait_for_key(pipeline)
        with Load(pipeline, stop_at_refusal=True) as load:
            time.sleep(generator.uniform(0.2, 1.5))
            pid = embedded.gateway_pid(home)
            assert pid is not None
            os.kill(pid, 9)
            embedded.await_end(pid)
        states = {p.name: p.state for p in pipeline.appliance.client.status().processes}
        assert states["gateway"] == "stopped"
        port = pipeline.url.rsplit(":", 1)[1]
        assert embedded.start(home, listen=f"127.0.0.1:{port}") == ["gateway"]
        check_gateway_ledger(pipeline, load.answered)
        answered += len(load.answered)
    print(f"soak: kills={kills} answered={answered}")


def test_the_engine_has_no_network_and_sees_no_host_socket(pipeline: Pipeline) -> None:
    deployment = pipeline.appliance.client.status().deployments[0]
    host = os.readlink("/proc/self/ns/net")
    for pid in engine_pids(pipeline.appliance, deployment.deployment_id):
        assert os.readlink(f"/proc/{pid}/ns/net") != host
        with open(f"/proc/{pid}/net/dev") as devices:
            assert [line.split(":")[0].strip() for line in devices.readlines()[2:]] == ["lo"]
        with open(f"/proc/{pid}/net/unix") as sockets:
            assert "authority.sock" not in sockets.read()
        assert not os.path.exists(f"/proc/{pid}/root{pipeline.appliance.home.authority_socket}")


def engine_pids(appliance: Appliance, deployment_id: str) -> list[int]:
    """Processes below the launcher that are in another network namespace."""
    launcher = embedded.listener_pid(appliance.home.launcher_socket)
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as stat:
                    parents[int(name)] = int(stat.read().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
    host = os.readlink("/proc/self/ns/net")
    found = []
    for pid in sorted(parents):
        above = pid
        while above in parents and above != launcher:
            above = parents[above]
        try:
            if above == launcher and pid != launcher and os.readlink(f"/proc/{pid}/ns/net") != host:
                found.append(pid)
        except OSError:
            continue
    return found


def test_ledgers_verify_and_hold_no_content(pipeline: Pipeline) -> None:
    pipeline.appliance.client.flush_ledger()
    for folder in (pipeline.appliance.home.control_ledger, pipeline.appliance.home.gateway_ledger):
        report = verify_log(folder, (folder / "vkey").read_text().strip())
        assert not report.problems
        assert not find_leaks(CANARY, [folder])
