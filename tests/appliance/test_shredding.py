"""Shreds through the real sockets: what goes, what stays, what is said of it, and what stands in the way."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Appliance, import_rows

from cloister.api import ForgetConfig, ForgetRequest, HoldRequest, ShredRequest
from cloister.demo.search import find_bytes, find_leaks
from cloister.errors import Conflict, InvalidInput, NotFound, Shredded
from cloister.verifier import verify_log

CANARY = "canary-5d0c7fe1a93b4426"


def rows(count: int = 12, name: str = "Ada") -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "user", "content": f"{name} {number} asks about {CANARY}"},
                {"role": "assistant", "content": f"answer {number}"},
            ]
        }
        for number in range(count)
    ]


def entries(appliance: Appliance) -> list[Any]:
    return appliance.client.entries(max(0, appliance.client.ledger().entries - 200), 200)


def verified(appliance: Appliance) -> None:
    appliance.client.flush_ledger()
    folder = appliance.home.control_ledger
    assert verify_log(folder, (folder / "vkey").read_text().strip()).problems == []


def key_bytes(appliance: Appliance, object_id: str) -> list[bytes]:
    """The wrapped data keys of an object, read from the file as a thief would."""
    uri = f"file:{appliance.home.keys / 'keystore.db'}?mode=ro"
    with sqlite3.connect(uri, uri=True) as database:
        found = database.execute("SELECT wrapped FROM data_keys WHERE object_id = ?", (object_id,)).fetchall()
    return [wrapped for (wrapped,) in found]


def holding(root: Path, needles: list[bytes]) -> list[Path]:
    return [leak.path for leak in find_bytes(needles, [root])]


def test_after_a_shred_nothing_is_left_and_the_message_says_who(appliance: Appliance) -> None:
    client = appliance.client
    import_rows(client, "gone", rows())
    import_rows(client, "kept", rows())
    dataset = client.dataset("gone")
    keys = key_bytes(appliance, dataset.object_id)
    assert len(keys) == 1
    assert holding(appliance.home.root, keys)
    plan = client.shred_plan("datasets", "gone")
    assert [(item.object_id, item.version, item.stored) for item in plan.items] == [
        (dataset.object_id, 1, True)
    ]
    assert plan.in_use == plan.holds == plan.backups == []
    assert client.dataset("gone").object_id == dataset.object_id, "a plan changes nothing"

    done = client.shred("datasets", "gone", ShredRequest(confirm="gone"))

    assert (done.state, done.objects, done.keys) == ("done", 1, 1)
    assert holding(appliance.home.root, keys) == []
    assert not list(appliance.home.objects.rglob(dataset.object_id))
    assert find_leaks(CANARY, [appliance.home.root]) == []
    account = client.whoami().account
    for reference in ("gone", dataset.object_id):
        with pytest.raises(
            Shredded, match=rf"dataset gone was shredded on \d{{4}}-.* by {account} \(ledger entry"
        ):
            client.dataset(reference)
    actions = [(e.action, e.decision) for e in entries(appliance) if dataset.object_id in e.objects]
    assert actions[-2:] == [("dataset.shred", "intended"), ("dataset.shredded", "done")]
    assert client.dataset("kept")
    verified(appliance)
    import_rows(client, "gone", rows())
    assert client.dataset("gone").object_id != dataset.object_id, "its name is free again"


def test_it_opens_no_more_after_a_restart_either(appliance: Appliance) -> None:
    import_rows(appliance.client, "restarted", rows())
    object_id = appliance.client.dataset("restarted").object_id
    appliance.client.shred("datasets", "restarted", ShredRequest(confirm="restarted"))
    appliance.restart_authority()
    with pytest.raises(Shredded):
        appliance.client.dataset("restarted")
    assert key_bytes(appliance, object_id) == []


def test_a_version_that_no_object_can_have_is_bad_input(appliance: Appliance) -> None:
    with pytest.raises(InvalidInput, match="version"):
        appliance.client.shred_plan("datasets", "nothing", 1 << 70)
    with pytest.raises(NotFound):
        appliance.client.shred_plan("datasets", "nothing", 999_999_999)


def test_the_name_must_be_repeated(appliance: Appliance) -> None:
    import_rows(appliance.client, "named", rows())
    with pytest.raises(InvalidInput, match="not the name"):
        appliance.client.shred("datasets", "named", ShredRequest(confirm="other"))
    assert appliance.client.dataset("named")
    for collection, reference in (("datasets", "no-such"), ("runs", "no-such"), ("bases", "named")):
        with pytest.raises(NotFound):
            appliance.client.shred(collection, reference, ShredRequest(confirm="named"))
    with pytest.raises(NotFound, match="no version 7"):
        appliance.client.shred("datasets", "named", ShredRequest(confirm="named", version=7))


def test_a_hold_blocks_a_shred_until_it_is_released(appliance: Appliance) -> None:
    client = appliance.client
    import_rows(client, "held", rows())
    placed = client.hold("held", HoldRequest(reason="case 7"))
    client.hold("held", HoldRequest(reason="case 8"))
    with pytest.raises(Conflict, match=r"a legal hold of .* keeps held .*: case 7"):
        client.shred("datasets", "held", ShredRequest(confirm="held", take_down=True))
    with pytest.raises(Conflict, match="legal hold"):
        config = ForgetConfig(identifiers=("Ada 3",))
        client.forget("held", ForgetRequest(config=config, shred="now", confirm="held"))
    assert [hold.reason for hold in client.shred_plan("datasets", "held").holds] == ["case 7", "case 8"]
    assert [hold.hold_id for hold in client.release(placed.hold_id)] == [placed.hold_id]
    with pytest.raises(Conflict, match="case 8"):
        client.shred("datasets", "held", ShredRequest(confirm="held"))
    assert len(client.release("held")) == 1
    with pytest.raises(Conflict, match="no legal hold"):
        client.release("held")
    assert client.shred("datasets", "held", ShredRequest(confirm="held")).state == "done"
    actions = [entry.action for entry in entries(appliance)]
    assert actions.count("dataset.hold") == 2
    assert actions.count("dataset.release") == 2


def forget(appliance: Appliance, name: str, *identifiers: str, **more: Any) -> dict[str, Any]:
    request = ForgetRequest(config=ForgetConfig(identifiers=identifiers), **more)
    job = appliance.client.finished_job(appliance.client.forget(name, request).job_id)
    return job.result


def test_forgetting_derives_a_version_and_keeps_the_old_one_listed(appliance: Appliance) -> None:
    client = appliance.client
    import_rows(
        client, "people", [*rows(8, "Ada Lovelace"), *rows(4, "Grace Hopper, of the Navy")], holdout=0.25
    )
    before = client.dataset("people")
    identifiers = ("GRACE\u00a0 hopper, of the navy", "nobody at all of this name")
    result = forget(appliance, "people", *identifiers)
    after = client.dataset("people")
    assert (after.object_id, after.version, after.counts["rows"]) == (before.object_id, 2, 8)
    assert result["rows_forgotten"] == 4
    assert result["train_rows_forgotten"] + result["holdout_rows_forgotten"] == 4
    assert (result["identifiers"], result["identifiers_found"]) == (2, 1)
    for side in ("train_rows", "holdout_rows"):
        assert after.counts[side] == before.counts[side] - result[f"{side}_forgotten"]
    assert any("dataset shred people --version 1" in warning for warning in client.status().warnings)
    assert [d.version for d in client.datasets() if d.name == "people"] == [1, 2]
    plan = client.shred_plan("datasets", "people", 1)
    assert [(item.object_id, item.version) for item in plan.items] == [(before.object_id, 1)]
    client.shred("datasets", "people", ShredRequest(confirm="people", version=1))
    assert client.dataset("people").version == 2
    assert not any("people" in warning for warning in client.status().warnings)
    told = json.dumps([entry.model_dump() for entry in entries(appliance)])
    for needle in (*identifiers, "Grace Hopper, of the Navy", "grace hopper, of the navy"):
        assert needle not in told
        assert find_leaks(needle, [appliance.home.root]) == []
    verified(appliance)


def test_forgetting_at_once_shreds_the_old_version(appliance: Appliance) -> None:
    client = appliance.client
    import_rows(client, "atonce", rows())
    before = client.dataset("atonce")
    keys = key_bytes(appliance, before.object_id)
    with pytest.raises(InvalidInput, match="not the name"):
        forget(appliance, "atonce", "Ada 3", shred="now", confirm="other")
    result = forget(appliance, "atonce", "Ada 3", shred="now", confirm="atonce")
    done = client.finished_shred(result["shred_id"])
    assert (done.state, done.objects) == ("done", 1)
    assert [d.version for d in client.datasets() if d.name == "atonce"] == [2]
    assert holding(appliance.home.root, keys) == []
    assert len(key_bytes(appliance, before.object_id)) == 1, "the successor's"


@pytest.mark.parametrize(
    ("identifier", "error", "message"),
    [
        ("Zoe", NotFound, "no row mentions"),
        ("Ada", InvalidInput, "every row mentions"),
        ("\u200bA", InvalidInput, "identifier 1 has fewer than 3"),
    ],
)
def test_nothing_is_derived_where_nothing_or_everything_would_go(
    appliance: Appliance, identifier: str, error: type[Exception], message: str
) -> None:
    name = f"none-{message[0]}"
    import_rows(appliance.client, name, rows())
    with pytest.raises(error, match=message):
        forget(appliance, name, identifier)
    assert appliance.client.dataset(name).version == 1
    result = forget(appliance, name, "Ada 3")
    assert result["rows_forgotten"] == 1
    done = appliance.client.shred("datasets", name, ShredRequest(confirm=name))
    assert done.keys == 3, "both versions', and the one of the attempt that failed"
