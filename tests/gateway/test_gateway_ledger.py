"""What cannot be recorded does not happen, and what is recorded verifies and holds no content."""

from __future__ import annotations

import base64
import resource
import signal
import threading

import httpx
import openai
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from gateway_stand_ins import CANARY, POLICY, GatewayProcess, Site, wait_for

from cloister.demo.search import find_leaks
from cloister.ledger import Ledger
from cloister.verifier import verify_log

pytestmark = pytest.mark.slow  # each starts gateways of its own

ASK = {"model": "claims", "messages": [{"role": "user", "content": f"hello {CANARY}"}]}


def _ledger_writes(site: Site, *, allowed: bool) -> None:
    """Let the gateway's writes to files fail, as on a full disk, or succeed again."""
    limit = resource.RLIM_INFINITY if allowed else 0
    resource.prlimit(site.gateway.process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


def _vkey(site: Site) -> str:
    return (site.gateway.home / "ledger" / "gateway" / "vkey").read_text().strip()


def test_without_a_ledger_nothing_is_answered(own_site: Site) -> None:
    site = own_site
    client = site.openai()
    client.chat.completions.create(**ASK)
    _ledger_writes(site, allowed=False)
    for _ in range(3):
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(**ASK)
        assert caught.value.status_code == 503
        assert caught.value.body["code"] == "ledger_unavailable"
    assert len(site.engine.seen) == 1
    with pytest.raises(openai.InternalServerError):
        client.models.list()
    _ledger_writes(site, allowed=True)
    wait_for(lambda: _works(client))
    site.gateway.stop()
    counted = site.gateway.actions("inference.counted")
    assert sum(e["details"]["count"] for e in counted if e["reason"] == "ledger_unavailable") >= 4


def test_entries_name_the_policy_set_in_force(own_site: Site) -> None:
    own_site.openai().chat.completions.create(**ASK)
    own_site.gateway.stop()
    for action in ("inference.intent", "inference.completion"):
        assert {entry["policy"] for entry in own_site.gateway.actions(action)} == {POLICY}


def test_a_stream_whose_completion_cannot_be_recorded_has_no_end(own_site: Site) -> None:
    site = own_site
    site.engine.go_on.clear()
    stream = iter(site.openai().chat.completions.create(**ASK, stream=True))
    got = [next(stream)]
    _ledger_writes(site, allowed=False)
    site.engine.go_on.set()
    with pytest.raises((openai.APIError, Exception)) as caught:
        got.extend(stream)
    assert "incomplete chunked read" in repr(caught.value.__cause__ or caught.value)
    assert not any(chunk.choices[0].finish_reason for chunk in got)
    _ledger_writes(site, allowed=True)


def test_an_answer_whose_completion_cannot_be_recorded_is_withheld(own_site: Site) -> None:
    site = own_site
    site.engine.go_on.clear()
    caught: list[openai.InternalServerError] = []

    def ask() -> None:
        try:
            site.openai().chat.completions.create(**ASK)
        except openai.InternalServerError as fault:
            caught.append(fault)

    thread = threading.Thread(target=ask)
    thread.start()
    wait_for(lambda: site.engine.seen)
    _ledger_writes(site, allowed=False)
    site.engine.go_on.set()
    thread.join(90)
    assert [fault.status_code for fault in caught] == [503]
    assert CANARY not in caught[0].response.text


def test_the_log_verifies_and_holds_no_content(own_site: Site) -> None:
    site = own_site
    client = site.openai()
    for _ in range(3):
        client.chat.completions.create(**ASK, user=CANARY)
        list(client.chat.completions.create(**ASK, stream=True))
    for fault in ("error", "fail", "garbage", "die", "stream-error"):
        site.engine.behave = fault
        with pytest.raises(openai.APIError):
            list(client.chat.completions.create(**ASK, stream=True))
        if fault in ("error", "fail", "garbage"):
            with pytest.raises(openai.APIError):
                client.chat.completions.create(**ASK)
    site.engine.behave = "answer"
    for odd in ({CANARY: 1}, {"temperature": CANARY}, {"response_format": {"type": CANARY}}):
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(**ASK, extra_body=odd)
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(**{**ASK, "model": CANARY})
    with pytest.raises(openai.AuthenticationError):
        site.openai("ck-" + CANARY).chat.completions.create(**ASK)
    with pytest.raises(openai.NotFoundError):
        client.get(f"/{CANARY}", cast_to=object)
    assert site.gateway.stop() == 0
    report = verify_log(site.gateway.home / "ledger" / "gateway", _vkey(site))
    assert not report.problems
    assert report.entries == report.signed == len(site.gateway.entries())
    entries = site.gateway.entries()
    intents = {e["details"]["request_id"] for e in entries if e["action"] == "inference.intent"}
    completions = [e["details"]["request_id"] for e in entries if e["action"] == "inference.completion"]
    assert sorted(completions) == sorted(intents)
    assert not find_leaks(CANARY, [site.gateway.home]) and not find_leaks(site.key, [site.gateway.home])


def test_the_search_finds_what_is_planted(own_site: Site) -> None:
    site = own_site
    planted = site.gateway.home / "run" / "planted"
    planted.write_text("x" * 5000 + CANARY)
    assert [leak.path for leak in find_leaks(CANARY, [site.gateway.home])] == [planted]


def test_kill_9_leaves_an_intent_and_the_next_start_goes_on(own_site: Site) -> None:
    site = own_site
    site.openai().chat.completions.create(**ASK)
    site.engine.go_on.clear()
    stream = iter(site.openai().chat.completions.create(**ASK, stream=True))
    next(stream)
    site.gateway.stop(signal.SIGKILL)
    site.engine.go_on.set()
    (site.gateway.home / "run" / "gateway" / "gateway.json").unlink()
    site.start()
    site.openai().chat.completions.create(**ASK)
    site.gateway.stop()
    actions = [e["action"] for e in site.gateway.entries()]
    pair = ["inference.intent", "inference.completion"]
    assert actions == [
        "gateway.start", *pair, "inference.intent", "gateway.start", *pair, "gateway.stop",
    ]  # fmt: skip
    assert not verify_log(site.gateway.home / "ledger" / "gateway", _vkey(site)).problems


def test_another_signing_key_ends_the_gateway(own_site: Site) -> None:
    """A home whose gateway ledger was signed by another key is not silently gone on with."""
    site = own_site
    site.openai().chat.completions.create(**ASK)
    site.gateway.stop()
    site.authority.ledger_seed = bytes(32)
    site.gateway.start(wait=False)
    wait_for(lambda: site.gateway.process.poll() is not None)
    assert site.gateway.process.returncode != 0
    ledger = Ledger.open(site.gateway.home / "ledger" / "gateway", origin=GatewayProcess.ORIGIN, signer=None)
    assert base64.b64encode(bytes(32)).decode() not in ledger.vkey
    ledger.close()


def test_a_flood_of_wrong_keys_does_not_fill_the_ledger(own_site: Site) -> None:
    site = own_site
    with httpx.Client(base_url=site.gateway.url) as client:
        for number in range(300):
            answer = client.get("/v1/models", headers={"authorization": f"Bearer wrong-key-{number:06}"})
            assert answer.status_code == 401
    assert len(site.gateway.actions("inference.refused")) < 60
    site.gateway.stop()
    entries = site.gateway.entries()
    single = [e for e in entries if e["action"] == "inference.refused"]
    counted = [e for e in entries if e["action"] == "inference.counted"]
    assert len(single) + sum(e["details"]["count"] for e in counted) == 300


def test_the_ledgers_key_is_the_authoritys_seed(own_site: Site) -> None:
    site = own_site
    site.openai().chat.completions.create(**ASK)
    site.gateway.stop()
    signer = Ed25519PrivateKey.from_private_bytes(site.authority.ledger_seed)
    ledger = Ledger.open(
        site.gateway.home / "ledger" / "gateway", origin=GatewayProcess.ORIGIN, signer=signer
    )
    assert ledger.signed_size == ledger.size
    ledger.close()


def _works(client: openai.OpenAI) -> bool:
    try:
        return bool(client.chat.completions.create(**ASK).choices)
    except openai.InternalServerError:
        return False
