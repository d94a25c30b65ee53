"""What policy wants kept is kept, sealed; what it does not is nowhere; what cannot be kept is refused."""

from __future__ import annotations

import base64
import json
import secrets

import openai
import pytest
from gateway_stand_ins import CANARY, GatewayProcess, Site, wait_for

from cloister.api import BodiesPolicy
from cloister.demo.search import find_leaks
from cloister.vault.bodies import open_body, open_capsule, public_half
from cloister.vault.body_store import BodyStore

pytestmark = pytest.mark.slow  # each starts gateways of its own

ASK = {"model": "claims", "messages": [{"role": "user", "content": f"hello {CANARY}"}]}
SECRET = secrets.token_bytes(32)
PUBLIC = base64.b64encode(public_half(SECRET)).decode()


def keep(site: Site, **policy: object) -> None:
    """Tell the gateway, and wait until it has heard: it knows a client that was issued afterwards."""
    site.authority.keep(BodiesPolicy(**policy))  # type: ignore[arg-type]
    key, _ = site.authority.issue()
    site.known(key)


def opened(site: Site, entry: dict[str, object], kind: str) -> bytes:
    digests = entry["digests"]
    assert isinstance(digests, dict)
    commitment = bytes.fromhex(digests[kind])
    store = BodyStore(site.gateway.home / "bodies")
    kept = store.fetch(commitment)
    store.close()
    assert kept.kind == kind
    key = open_capsule(kept.capsule, SECRET, commitment, GatewayProcess.ORIGIN)
    body = open_body(kept.sealed, key, commitment, GatewayProcess.ORIGIN)
    assert len(body) == kept.size
    return body


def canaries(site: Site) -> list[str]:
    """Every file of the home in which the canary stands."""
    return [str(leak.path) for leak in find_leaks(CANARY, [site.gateway.home])]


def test_with_keeping_off_nothing_is_kept(own_site: Site) -> None:
    site = own_site
    client = site.openai()
    client.chat.completions.create(**ASK)
    list(client.chat.completions.create(**ASK, stream=True))
    assert not (site.gateway.home / "bodies").exists()
    assert all(not entry["digests"] for entry in site.gateway.entries())
    site.gateway.stop()
    assert canaries(site) == []


def test_with_keeping_on_each_body_is_sealed_and_committed_to(own_site: Site) -> None:
    site = own_site
    keep(site, prompts=True, answers=True, public_key=PUBLIC)
    client = site.openai()
    client.chat.completions.create(**ASK)
    list(client.chat.completions.create(**ASK, stream=True))
    intents = site.gateway.actions("inference.intent")
    completions = site.gateway.actions("inference.completion")
    for number, entry in enumerate(intents):
        asked = json.loads(opened(site, entry, "prompt"))
        assert asked["messages"] == ASK["messages"]
        assert bool(asked.get("stream")) == bool(number)
    assert CANARY in json.loads(opened(site, completions[0], "answer"))["choices"][0]["message"]["content"]
    events = opened(site, completions[1], "answer").split(b"\n\n")
    words = [json.loads(event[6:])["choices"][0]["delta"]["content"] for event in events if event]
    assert "".join(words) == "one two " + CANARY + " three"
    commitments = {entry["digests"][kind] for entry in intents + completions for kind in entry["digests"]}
    assert len(commitments) == 4  # salted: the same prompt twice is not seen to be the same
    site.gateway.stop()
    assert canaries(site) == []
    assert (site.gateway.home / "bodies" / "capsules.db").stat().st_mode & 0o077 == 0


def test_only_what_the_policy_names_is_kept_and_an_answer_that_is_cut_off_as_far_as_it_went(
    own_site: Site,
) -> None:
    site = own_site
    keep(site, answers=True, public_key=PUBLIC)
    site.engine.behave = "die"
    with pytest.raises((openai.APIError, ValueError)):
        for _ in site.openai().chat.completions.create(**ASK, stream=True):
            pass
    wait_for(lambda: site.gateway.actions("inference.completion"))
    assert site.gateway.actions("inference.intent")[0]["digests"] == {}
    body = opened(site, site.gateway.actions("inference.completion")[0], "answer")
    assert b"one " in body
    assert CANARY.encode() not in body


def test_what_cannot_be_kept_is_refused_before_the_engine_sees_it(own_site: Site) -> None:
    site = own_site
    keep(site, prompts=True, answers=True)  # no key: the vault was locked when the view was made
    with pytest.raises(openai.InternalServerError) as caught:
        site.openai().chat.completions.create(**ASK)
    assert caught.value.status_code == 503
    (site.gateway.home / "bodies").write_text("a file where the folder belongs")
    keep(site, prompts=True, public_key=PUBLIC)
    with pytest.raises(openai.InternalServerError) as caught:
        site.openai().chat.completions.create(**ASK)
    assert caught.value.body["code"] == "ledger_unavailable"
    assert site.engine.seen == []
    assert site.gateway.actions("inference.intent") == []
    (site.gateway.home / "bodies").unlink()
    site.openai().chat.completions.create(**ASK)
    assert len(site.gateway.actions("inference.intent")) == 1
