"""A dataset that was trained on, merged and served: shredded with everything that came of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from tests.appliance.test_backups import RECIPIENT, back_up
from tests.appliance.test_shredding import entries, holding, key_bytes, verified
from tests.conftest import Appliance, import_base, import_rows, short_run
from tests.pipeline.conftest import CANARY

from cloister.api import (
    JobState,
    MergeConfig,
    MergeRequest,
    ObjectKind,
    ServeRequest,
    ShredRequest,
)
from cloister.demo.search import find_leaks
from cloister.errors import Conflict, Shredded

pytestmark = pytest.mark.slow


def test_everything_derived_goes_and_nothing_else(
    appliance: Appliance, claims: list[dict[str, Any]], tmp_path: Path
) -> None:
    client, home = appliance.client, appliance.home
    import_rows(client, "claims", claims)
    import_rows(client, "other", claims[:40])
    import_base(client)
    run = client.start_run(short_run("first"))
    client.finished_job(run.train_job.job_id)
    evaluate = client.run("first").evaluate_job
    assert evaluate is not None
    client.finished_job(evaluate.job_id)
    client.finished_job(
        client.merge(MergeRequest(name="merged", run="first", config=MergeConfig(max_rows=8))).job_id
    )
    cut = client.start_run(short_run("cut", epochs=50).model_copy(update={"evaluate": None}))
    for job in client.watch_job(cut.train_job.job_id):
        if job.metrics.get("step", 0) >= 3:
            break
    with pytest.raises(Conflict, match=r"in use: cut \(train running\)"):
        client.shred("datasets", "claims", ShredRequest(confirm="claims"))
    client.cancel_run("cut")
    *_, job = client.watch_job(cut.train_job.job_id)
    assert job.state == JobState.CANCELLED
    assert list((home.work / job.job_id).rglob("*checkpoint*")), "a checkpoint, sealed"
    back_up(client, tmp_path)

    plan = client.shred_plan("datasets", "claims")
    kinds = [str(item.kind) for item in plan.items]
    assert sorted(kinds) == ["adapter", "adapter", "dataset", "evaluation", "model"]
    assert [item.stored for item in plan.items].count(False) == 1, "the adapter of the run that was cut off"
    assert set(plan.runs.values()) == {"first", "cut"}
    assert len(plan.backups) == 1
    ids = [item.object_id for item in plan.items]
    keys = [key for object_id in ids for key in key_bytes(appliance, object_id)]
    assert len(keys) == 5

    deployment = client.serve(ServeRequest(name="served", model="merged"))
    with pytest.raises(Conflict, match="in use: served"):
        client.shred("datasets", "claims", ShredRequest(confirm="claims"))
    done = client.shred("datasets", "claims", ShredRequest(confirm="claims", take_down=True))

    assert (done.state, done.objects, done.keys) == ("done", 5, 5)
    assert done.final_after == plan.backups[0].keys_until
    states = {d.deployment_id: d.state for d in client.deployments()}
    assert states[deployment.deployment_id] == "stopped"
    assert find_leaks(CANARY, [home.root, tmp_path]) == []
    assert holding(home.root, keys) == []
    assert holding(tmp_path, keys) == [], (
        "not in the objects' backup, and not in the open in that of the keys"
    )
    for object_id in ids:
        assert not list(home.objects.rglob(f"{object_id}*"))
    assert not (home.work / job.job_id).exists()
    for look in (client.dataset, client.run, client.model):
        name = {client.dataset: "claims", client.run: "first", client.model: "merged"}[look]
        with pytest.raises(Shredded, match=rf"{name} was shredded on"):
            look(name)
    with pytest.raises(Shredded):
        client.resume_job(cut.train_job.job_id)
    assert client.jobs()
    assert client.dataset("other").counts["rows"] == 40
    assert client.base("small")
    intent, completion = (e for e in entries(appliance) if ids[0] in e.objects and e.details.get("shred"))
    assert set(intent.objects) == set(completion.objects) == set(ids)
    assert intent.details["counts"] == {"adapter": 2, "dataset": 1, "evaluation": 1, "model": 1, "run": 2}
    assert completion.details["keys_destroyed"] == 5
    again = client.start_run(short_run("first", dataset="other"))
    client.finished_job(again.train_job.job_id)
    plan = client.shred_plan("runs", "first")
    assert plan.items[0].kind == ObjectKind.ADAPTER
    verified(appliance)
    assert os.listdir(tmp_path / "keys")
    assert RECIPIENT
