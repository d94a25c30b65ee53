"""What the gateway does while its authority is locked, away, mute or has changed its mind."""

from __future__ import annotations

import openai
import pytest
from gateway_stand_ins import Site, wait_for

from cloister.api import EVENTS_LOST

pytestmark = pytest.mark.slow  # each starts gateways of its own

ASK = {"model": "claims", "messages": [{"role": "user", "content": "hello"}]}


def test_locked_is_503_until_it_is_unlocked(bare_site: Site) -> None:
    site = bare_site
    site.authority.locked = True
    site.gateway.start()
    assert site.health() == 503
    with pytest.raises(openai.InternalServerError) as caught:
        site.openai().chat.completions.create(**ASK)
    assert caught.value.body["code"] == "gateway_locked"
    assert site.gateway.actions("inference.refused")[-1]["reason"] == "gateway_locked"
    site.authority.locked = False
    site.ready()
    assert site.openai().chat.completions.create(**ASK).choices
    site.authority.lock()
    wait_for(lambda: site.health() == 503)
    assert site.status(site.key) == 503
    site.authority.locked = False
    site.ready()
    assert site.status(site.key) == 200


def test_it_says_where_it_listens(site: Site) -> None:
    wait_for(lambda: site.authority.hellos)
    assert site.authority.hellos[-1] == site.gateway.announced()


@pytest.mark.parametrize("how", ["mute", "gone"])
def test_stale_is_503_and_passes(bare_site: Site, how: str) -> None:
    site = bare_site
    site.start("--stale-after", "3")
    assert site.openai().chat.completions.create(**ASK).choices
    if how == "mute":
        site.authority.muted = True
    else:
        site.authority.server.stop()
    wait_for(lambda: site.health() == 503)
    with pytest.raises(openai.InternalServerError) as caught:
        site.openai().chat.completions.create(**ASK)
    assert caught.value.body["code"] == "gateway_stale"
    assert site.gateway.actions("inference.refused")[-1]["reason"] == "gateway_stale"
    site.authority.muted = False
    if how == "gone":
        site.authority.server.start()
    site.ready()
    assert site.openai().chat.completions.create(**ASK).choices


def test_a_restart_of_the_authority_interrupts_nothing(site: Site) -> None:
    """A stream goes on, new requests are answered while it is away, and what it says then is heard."""
    site.engine.go_on.clear()
    stream = iter(site.openai().chat.completions.create(**ASK, stream=True))
    next(stream)
    site.authority.server.stop()
    site.engine.go_on.set()
    assert site.openai().chat.completions.create(**ASK).choices
    site.engine.go_on.clear()
    second = iter(site.openai().chat.completions.create(**ASK, stream=True))
    next(second)
    assert len(list(stream)) == 3
    key, _ = site.authority.issue()
    site.authority.server.start()
    wait_for(lambda: site.status(key) == 200)
    site.authority.revoke(site.client)
    wait_for(lambda: site.status(site.key) == 401)
    site.engine.go_on.set()
    assert len(list(second)) == 3
    assert {c["details"]["status"] for c in site.gateway.actions("inference.completion")} == {200}


def test_a_change_that_cannot_be_fetched_does_not_count_as_heard(bare_site: Site) -> None:
    """A revocation must not be overlooked because keep-alives go on: the view is fetched, or all is stale."""
    site = bare_site
    site.start("--stale-after", "3")
    key, _ = site.authority.issue()
    site.known(key)
    site.authority.view_fails = True
    site.authority.deploy("other", site.engine.server.path)
    wait_for(lambda: site.status(key) == 503)
    site.authority.view_fails = False
    wait_for(lambda: site.status(key) == 200)


def test_an_authority_restored_from_a_backup_is_believed(own_site: Site) -> None:
    """Its event numbers are lower than those seen: the view counts, not the number."""
    site = own_site
    for name in ("a", "b", "c"):
        site.authority.deploy(name, site.engine.server.path)
    wait_for(lambda: len(list(site.openai().models.list())) == 4)
    site.authority.server.stop()
    del site.authority._events[2:]
    del site.authority._deployments["c"]
    site.authority.server.start()
    wait_for(lambda: len(list(site.openai().models.list())) == 3)
    site.authority.revoke(site.client)
    wait_for(lambda: site.status(site.key) == 401)


@pytest.mark.parametrize("number", ["higher", "lower"])
@pytest.mark.parametrize("kind", sorted(EVENTS_LOST))
def test_where_events_are_lost_it_looks_at_all_anew(site: Site, kind: str, number: str) -> None:
    """A revocation and a lock among them count, whatever number the stream goes on with."""
    other, _ = site.authority.issue()
    site.known(other)
    assert site.client is not None
    site.authority.revoke_unheard(site.client)
    site.authority.locked = True
    site.authority.lose(kind, site.authority.seq + 1 if number == "higher" else 0)
    wait_for(lambda: site.health() == 503)
    site.authority.locked = False
    site.ready()
    assert site.status(site.key) == 401 and site.status(other) == 200


def test_a_dead_audit_sink_is_503_until_it_is_back(bare_site: Site) -> None:
    """Nothing reaches the engine, what takes away works, and a gateway that starts meanwhile knows it at once."""
    site = bare_site
    site.start()
    assert site.openai().chat.completions.create(**ASK).choices
    asked = len(site.engine.seen)
    site.engine.go_on.clear()
    stream = iter(site.openai().chat.completions.create(**ASK, stream=True))
    next(stream)
    site.authority.tell_of_sinks(["siem"])
    wait_for(lambda: site.health() == 503)

    def refused() -> None:
        with pytest.raises(openai.InternalServerError) as chat:
            site.openai().chat.completions.create(**ASK, stream=True)
        with pytest.raises(openai.InternalServerError) as text:
            site.openai().completions.create(model="claims", prompt="hello")
        assert {chat.value.body["code"], text.value.body["code"]} == {"audit_sink_dead"}

    refused()
    site.engine.go_on.set()
    assert len(list(stream)) == 3  # what was admitted before ends as it would have
    site.authority.server.stop()  # away, it takes nothing back
    refused()
    site.gateway.stop()
    site.authority.server.start()
    site.gateway.start()
    wait_for(lambda: site.status(site.key) == 200)  # the list of models: no model is asked
    refused()
    entry = site.gateway.actions("inference.refused")[-1]
    assert (entry["actor"], entry["reason"]) == (site.client.client_id, "audit_sink_dead")
    assert entry["details"]["status"] == 503
    key, client = site.authority.issue()
    wait_for(lambda: site.status(key) == 200)
    site.authority.revoke(client)
    wait_for(lambda: site.status(key) == 401)
    assert len(site.engine.seen) == asked + 1
    site.authority.tell_of_sinks([])
    site.ready()
    assert site.openai().chat.completions.create(**ASK).choices
